"""What a user reads when something is wrong: the exact text, all at once, in the order of the file."""
from __future__ import annotations

from textwrap import dedent

import pytest

from edgeproxy.config.load import ConfigError, Problem, load_text


def printed(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_text(text, "conf.yaml", env={})
    return str(error.value)


def test_everything_at_once() -> None:
    assert printed("""\
listeners:
  web:
    bind: ":80"
    protcol: http
    limits: {header: 64kb}
  db:
    bind: "0.0.0.0:80"
    protocol: tcp
    service: postgre
    trusted_proxies: [10.0.0.1/8]
routes:
  - host: a.example.com:8080
    service: [{name: app, weight: 90}, {name: ap, weight: -1}]
  - path: /x
    retry: {when: [conect]}
  - path: /x
    service: app
    redirect: {host: b.example.com}
services:
  app:
    endpoints: [tom cat:8080, "10.0.0.1"]
    helth: {}
  postgres: {endpoints: ["10.0.0.2:5432"]}
  app: {}
""") == """\
conf.yaml:4:5: unknown key "protcol", did you mean "protocol"?
      protcol: http
      ^
conf.yaml:5:22: "64kb" is not a size, did you mean "64KiB"?
      limits: {header: 64kb}
                       ^
conf.yaml:7:11: 0.0.0.0:80 and :80 cannot both be listened on, and :80 is taken by the listener "web" in line 2
      bind: "0.0.0.0:80"
            ^
conf.yaml:9:14: no service is named "postgre", did you mean "postgres"?
      service: postgre
               ^
conf.yaml:10:5: "trusted_proxies" is for http and https listeners, this one is tcp
      trusted_proxies: [10.0.0.1/8]
      ^
conf.yaml:10:23: "10.0.0.1/8" has bits set behind the mask, did you mean "10.0.0.0/8"?
      trusted_proxies: [10.0.0.1/8]
                        ^
conf.yaml:12:11: hosts are compared without the port; write "a.example.com"
    - host: a.example.com:8080
            ^
conf.yaml:13:47: no service is named "ap", did you mean "app"?
      service: [{name: app, weight: 90}, {name: ap, weight: -1}]
                                                ^
conf.yaml:13:59: this cannot be negative
      service: [{name: app, weight: 90}, {name: ap, weight: -1}]
                                                            ^
conf.yaml:14:5: this route leads nowhere: write service, redirect or respond
    - path: /x
      ^
conf.yaml:15:20: "conect" is not a reason to retry; write connect, reset, timeout or a status from 400 to 599
      retry: {when: [conect]}
                     ^
conf.yaml:16:5: the same match as the route in line 14; join the two, or give one a further condition
    - path: /x
      ^
conf.yaml:18:5: a route has only one of service, redirect and respond; service is there already
      redirect: {host: b.example.com}
      ^
conf.yaml:21:17: "tom cat" is not a name that DNS knows: letters, digits, - and _ between dots, at most 63 in a row and 253 in all
      endpoints: [tom cat:8080, "10.0.0.1"]
                  ^
conf.yaml:21:31: "10.0.0.1" has no port; write "10.0.0.1:80"
      endpoints: [tom cat:8080, "10.0.0.1"]
                                ^
conf.yaml:22:5: unknown key "helth", did you mean "health"?
      helth: {}
      ^
conf.yaml:24:3: the service "app" is given twice, first in line 20
    app: {}
    ^"""


@pytest.mark.parametrize(("text", "expected"), [
    ("", "conf.yaml: this file is empty; the smallest useful one has listeners, routes and services"),
    ("# nothing\n", "conf.yaml: this file is empty; the smallest useful one has listeners, routes and services"),
    ("routes: []", """\
     conf.yaml:1:1: "listeners" is missing: nothing would be listened on
       routes: []
       ^"""),
    ("listeners: {}", """\
     conf.yaml:1:1: there is no listener: nothing would be listened on
       listeners: {}
       ^"""),
    ("listeners:", """\
     conf.yaml:1:11: expected a map of names, each with a map, found no value
       listeners:
                 ^"""),
    ("hello", """\
     conf.yaml:1:1: expected a map with listeners, routes, services, resolver, admin, access_log, shutdown, found "hello"
       hello
       ^"""),
    ("listeners: {web: {}}", """\
     conf.yaml:1:18: "bind" and "protocol" are missing here
       listeners: {web: {}}
                        ^"""),
    ("listeners: {web: {bind: , protocol: httq}}", """\
     conf.yaml:1:25: no value; expected an address such as ":80", "127.0.0.1:8080", "[::1]:80" or "unix:/run/e.sock"
       listeners: {web: {bind: , protocol: httq}}
                               ^
     conf.yaml:1:37: unknown value "httq", did you mean "http"?
       listeners: {web: {bind: , protocol: httq}}
                                           ^"""),
    ("listeners: {web: {bind: ':80', protocol: tcp}}", """\
     conf.yaml:1:18: a tcp listener leads to one service: write service: NAME
       listeners: {web: {bind: ':80', protocol: tcp}}
                        ^"""),
    ("listeners: {web: {bind: ':80', protocol: http, service: a, timeouts: {half_closed: 1s}}}", """\
     conf.yaml:1:48: "service" is for tcp listeners, this one is http; write routes that lead to services
       listeners: {web: {bind: ':80', protocol: http, service: a, timeouts: {half_closed: 1s}}}
                                                      ^
     conf.yaml:1:71: "half_closed" is for tcp and tls listeners, this one is http
       listeners: {web: {bind: ':80', protocol: http, service: a, timeouts: {half_closed: 1s}}}
                                                                             ^"""),
    ("listeners: {web: {bind: ':80', bind: ':81', protocol: http}}", """\
     conf.yaml:1:32: "bind" is given twice, first in line 1
       listeners: {web: {bind: ':80', bind: ':81', protocol: http}}
                                      ^"""),
    ("x: &x {}\nlisteners: {web: {<<: *x}}", """\
     conf.yaml:1:1: unknown key "x"; known here: listeners, routes, services, resolver, admin, access_log, shutdown
       x: &x {}
       ^
     conf.yaml:2:19: merge keys are not used here; write the keys out, or repeat a whole map by *NAME
       listeners: {web: {<<: *x}}
                         ^"""),
    ("listeners: {web: !service x, [a]: {}, {b: c}: {}}", """\
     conf.yaml:1:18: tags such as "!service" are not used here; write the value alone
       listeners: {web: !service x, [a]: {}, {b: c}: {}}
                        ^
     conf.yaml:1:30: expected a name, found a list
       listeners: {web: !service x, [a]: {}, {b: c}: {}}
                                    ^
     conf.yaml:1:39: expected a name, found a map
       listeners: {web: !service x, [a]: {}, {b: c}: {}}
                                             ^"""),
])
def test_the_file_as_such(text: str, expected: str) -> None:
    assert printed(text) == dedent(expected)


@pytest.mark.parametrize(("text", "expected"), [
    ("listeners:\n\tweb: x", """\
     conf.yaml:2:1: a tab; YAML is indented with spaces
        web: x
       ^"""),
    ("a: b: c", """\
     conf.yaml:1:5: a ":" where none can be: is the line indented wrongly, or does a value with ": " in it need quotes?
       a: b: c
           ^"""),
    ("routes:\n- host: *.example.com", """\
     conf.yaml:2:9: a value that begins with * or & must be quoted, such as "*.example.com"
       - host: *.example.com
               ^"""),
    ("routes:\n- host: 'a.example.com\n  service: x\n", """\
     conf.yaml:2:9: this quote is never closed
       - host: 'a.example.com
               ^"""),
    ('routes:\n- path: {regex: "^/\\d+"}', """\
     conf.yaml:2:20: unknown escape after "\\"; in single quotes the backslash is an ordinary character
       - path: {regex: "^/\\d+"}
                          ^"""),
    ("routes: [{service: a}\nservices: {}\n", """\
     conf.yaml:2:1: expected "," or "]": is a list not closed, or is a quote missing? It begins in line 1.
       services: {}
       ^"""),
    ("services: {a: {}\n", """\
     conf.yaml:1:11: expected "," or "}": is a map not closed, or is a quote missing?
       services: {a: {}
                 ^"""),
    ("listeners: {web: {bind: ${ADDRESS}}}", """\
     conf.yaml:1:26: within { } and [ ] a variable must be quoted: "${NAME}"
       listeners: {web: {bind: ${ADDRESS}}}
                                ^"""),
    ("bind: @here", """\
     conf.yaml:1:7: a value that begins with @ must be quoted
       bind: @here
             ^"""),
    ("a: 1\n---\nb: 2", """\
     conf.yaml:2:1: a second document begins here; one file is one document, remove the "---"
       ---
       ^"""),
    ("a: *b", """\
     conf.yaml:1:4: this alias has no anchor before it; a value that begins with * must be quoted
       a: *b
          ^"""),
    ("a: &a [*a]", """\
     conf.yaml:1:4: this value contains itself through an alias
       a: &a [*a]
          ^"""),
    ("a: b\x07c", """\
     conf.yaml:1:5: a control character (U+0007) that does not belong in a text
       a: b c
           ^"""),
    ("\x00\x01\x02\x03\x04\x05\x06\x07\x08", "conf.yaml: this looks like a binary file; a YAML text is expected"),
    ("[" * 200, """\
     conf.yaml:1:64: nested too deeply; is a bracket open that should be closed?
       [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[
                                                                      ^"""),
])
def test_what_is_not_yaml(text: str, expected: str) -> None:
    assert printed(text) == dedent(expected)


ONE = 'listeners: {web: {bind: ":80", protocol: http}, db: {bind: ":81", protocol: tcp, service: app}}\n'
TWO = ONE + 'services: {app: {endpoints: ["10.0.0.1:80"]}}\nroutes:\n'


@pytest.mark.parametrize(("text", "expected"), [
    ("- service: app\n- service: app", """\
     conf.yaml:5:3: the same match as the route in line 4; join the two, or give one a further condition
       - service: app
         ^"""),
    ("- {service: app, host: [a, b]}\n- {service: app, host: [c, b.]}", """\
     conf.yaml:5:3: the same match for b as the route in line 4; join the two, or give one a further condition
       - {service: app, host: [c, b.]}
         ^"""),
    ("- {service: app, name: x}\n- {service: app, name: x, path: /a}", """\
     conf.yaml:5:24: the route "x" is given twice, first in line 4
       - {service: app, name: x, path: /a}
                              ^"""),
    ("- {service: app, listeners: [wob, db]}", """\
     conf.yaml:4:30: no listener is named "wob", did you mean "web"?
       - {service: app, listeners: [wob, db]}
                                    ^
     conf.yaml:4:35: routes are for http and https listeners; "db" is a tcp listener
       - {service: app, listeners: [wob, db]}
                                         ^"""),
    ("- {service: nothing-like-it}", """\
     conf.yaml:4:13: no service is named "nothing-like-it"; there is: app
       - {service: nothing-like-it}
                   ^"""),
    ("- {service: app, rewrite: {path: /$1}}", """\
     conf.yaml:4:34: $1 is a group of a regex, but the route's path is {prefix: …}
       - {service: app, rewrite: {path: /$1}}
                                        ^"""),
    ("- {service: app, path: {regex: ^/(a)}, rewrite: {path: /$0/$2}}", """\
     conf.yaml:4:56: there is no $0: the route's regex has only $1
       - {service: app, path: {regex: ^/(a)}, rewrite: {path: /$0/$2}}
                                                              ^"""),
    ("- {service: app, path: {exact: /a}, rewrite: {prefix: /b}}", """\
     conf.yaml:4:47: this route has no prefix to replace, its path is {exact: …}; write path instead
       - {service: app, path: {exact: /a}, rewrite: {prefix: /b}}
                                                     ^"""),
    ("- {service: app, rewrite: {prefix: /b, path: /c}}", """\
     conf.yaml:4:28: prefix and path exclude each other
       - {service: app, rewrite: {prefix: /b, path: /c}}
                                  ^"""),
    ("- {redirect: {prefix: /b}, path: {regex: x}}", """\
     conf.yaml:4:15: this route has no prefix to replace, its path is {regex: …}; write path instead
       - {redirect: {prefix: /b}, path: {regex: x}}
                     ^"""),
    ("- {redirect: {status: 300}, retry: {attempts: 1}}", """\
     conf.yaml:4:14: this redirects to the same place; write scheme, host, port, path or prefix
       - {redirect: {status: 300}, retry: {attempts: 1}}
                    ^
     conf.yaml:4:23: unknown value "300"; write 301, 302, 303, 307 or 308
       - {redirect: {status: 300}, retry: {attempts: 1}}
                             ^
     conf.yaml:4:29: retry is for routes to a service; with redirect it has no effect
       - {redirect: {status: 300}, retry: {attempts: 1}}
                                   ^"""),
    ("- {respond: {status: 204, body: x}}", """\
     conf.yaml:4:33: a response with status 204 has no body
       - {respond: {status: 204, body: x}}
                                       ^"""),
    ("- {service: app, request_headers: {set: {X-A: b}, remove: [x-a]}}", """\
     conf.yaml:4:42: X-A is both set and removed; set alone replaces what was there
       - {service: app, request_headers: {set: {X-A: b}, remove: [x-a]}}
                                                ^"""),
    ("- {service: app, path: {regex: '^/(a'}}", """\
     conf.yaml:4:32: this regex is not valid: missing ), unterminated subpattern at character 3
       - {service: app, path: {regex: '^/(a'}}
                                      ^"""),
    ("- {service: '${NOPE}'}", """\
     conf.yaml:4:13: the environment variable NOPE is not set; set it, or give a default: ${NOPE:-default}
       - {service: '${NOPE}'}
                   ^"""),
    ("- {serivce: app, timeouts: {response: 5x}}", """\
     conf.yaml:4:4: unknown key "serivce", did you mean "service"?
       - {serivce: app, timeouts: {response: 5x}}
          ^
     conf.yaml:4:39: "5x" is not a duration; write 250ms, 5s, 2m, 3h or a number of seconds
       - {serivce: app, timeouts: {response: 5x}}
                                             ^"""),
    ("- {service: app, headers: {名前: x}, query: {名前: [x]}}", """\
     conf.yaml:4:28: "名前" is not the name of a header: letters, digits and -
       - {service: app, headers: {名前: x}, query: {名前: [x]}}
                                  ^
     conf.yaml:4:48: expected text, found a list
       - {service: app, headers: {名前: x}, query: {名前: [x]}}
                                                          ^"""),
])
def test_routes(text: str, expected: str) -> None:
    assert printed(TWO + text) == dedent(expected)


def test_a_long_line_is_cut_around_the_place() -> None:
    said = printed(TWO + "- {service: app, query: {" + ", ".join(f"q{n}: v" for n in range(100)) + ", q5: w}}")
    assert said.splitlines() == [
        'conf.yaml:4:816: "q5" is given twice, first in line 4',
        "  " + ("- {service: app, query: {" + ", ".join(f"q{n}: v" for n in range(100)) + ", q5: w}}")[-160:],
        "  " + " " * 153 + "^"]


def test_a_wrong_section_is_not_the_fault_of_what_refers_to_it() -> None:
    assert printed(ONE + "routes: [{service: x}]\nservces: {app: {}}") == dedent("""\
        conf.yaml:3:1: unknown key "servces", did you mean "services"?
          servces: {app: {}}
          ^""")


def test_the_headline_is_one_line_for_a_log() -> None:
    problem = Problem("conf.yaml", 4, 5, "something", "    some: line")
    assert problem.headline() == "conf.yaml:4:5: something"
    assert str(problem) == "conf.yaml:4:5: something\n      some: line\n      ^"
    assert str(Problem("conf.yaml", 0, 0, "something", level="warning")) == "conf.yaml: warning: something"
    assert str(Problem("", 0, 0, "something", level="warning")) == "warning: something"
