"""Warnings: what is allowed but probably not meant, each with its place."""
from __future__ import annotations

from textwrap import dedent

import pytest

from edgeproxy.config.check import warnings
from edgeproxy.config.load import read_text

LISTENERS = 'listeners: {web: {bind: ":8080", protocol: http}, other: {bind: "127.0.0.1:8081", protocol: http}}\n'
SERVICES = 'services: {app: {endpoints: ["10.0.0.1:80"]}}\n'


def warned(text: str) -> list[str]:
    loaded = read_text(text, "c.yaml", env={})
    return [problem.headline() for problem in warnings(loaded.config, loaded.places)]


def routes(text: str) -> list[str]:
    return warned(LISTENERS + SERVICES + "routes:\n" + dedent(text))


def test_nothing_to_say() -> None:
    assert routes("""\
        - {service: app}
        - {service: app, methods: [GET]}
        - {service: app, headers: {a: b}}
        - {service: app, path: /x}
        - {service: app, host: a.b, path: {regex: "^/x/[0-9]"}}
        - {service: app, host: a.b, path: /y}
        - {service: app, host: "*.b"}
    """) == []


def test_with_the_line_and_without_places() -> None:
    text = LISTENERS + "services:\n  app: {}\n  idle: {endpoints: ['10.0.0.1:80']}\nroutes: [{service: app}]"
    loaded = read_text(text, "c.yaml", env={})
    assert [str(problem) for problem in warnings(loaded.config, loaded.places)] == [
        'c.yaml:3:8: warning: the service "app" has no endpoints: what needs it is answered 503, or closed\n    app: {}\n         ^',
        "c.yaml:4:3: warning: no route and no listener uses the service \"idle\"\n    idle: {endpoints: ['10.0.0.1:80']}\n    ^"]
    assert [str(problem) for problem in warnings(loaded.config)] == [
        'warning: no route and no listener uses the service "idle"',
        'warning: the service "app" has no endpoints: what needs it is answered 503, or closed']


def test_listeners_and_routes_without_each_other() -> None:
    assert warned('listeners: {db: {bind: ":5432", protocol: tcp, service: app}}\n' + SERVICES + "routes: [{service: app}]") == [
        "c.yaml:3:10: warning: there are routes, but no listener that could use them"]
    assert warned(LISTENERS + SERVICES + "routes: [{service: app, listeners: [web]}]") == [
        'c.yaml:1:51: warning: no route is for the listener "other": it answers 404 to everything']
    assert warned('listeners: {db: {bind: ":5432", protocol: tcp, service: app}}\n' + SERVICES) == []


def test_weights_of_zero() -> None:
    assert warned(LISTENERS + """\
services:
  a: {endpoints: [{address: "10.0.0.1:80", weight: 0}]}
  b: {endpoints: ["10.0.0.1:80", {address: "10.0.0.2:80", weight: 0}]}
routes:
- {service: [{name: a, weight: 0}, {name: b, weight: 0}]}
- {service: [{name: a, weight: 0}, {name: b, weight: 1}], path: /b}
""") == ["c.yaml:3:18: warning: every weight is 0: no endpoint of this service takes anything",
         "c.yaml:6:13: warning: every weight is 0: requests on this route are answered 500"]


SHADOWED = 'warning: this route can never win: the route "first" comes first and takes all of its requests'


@pytest.mark.parametrize(("first", "second"), [
    ("{}", "{path: {regex: ^/x}}"), ("{host: a.b}", "{host: a.b, path: {regex: x}}"),
    ("{path: /api}", "{path: {regex: '^/api/v[0-9]+'}}"),
    ("{path: /api}", "{path: {regex: '^/api/'}, methods: [GET]}"), ("{path: /a.b}", "{path: {regex: '^/a\\.b/'}}"),
    ("{methods: [GET, HEAD]}", "{methods: [GET]}"),
    ("{methods: [GET, HEAD]}", "{path: {regex: x}, methods: [HEAD]}"),
    ("{headers: {a: b}}", "{headers: {a: b, c: d}, path: {regex: x}}"),
    ("{query: {a: b}}", "{query: {a: b}, path: {regex: x}}"), ("{path: {regex: ^/}}", "{path: {regex: ^/x}}"),
    ("{path: {regex: .*}}", "{path: {regex: ^/x}, headers: {a: b}}"),
    ("{}", "{path: {regex: ^/x}, listeners: [web]}"),
    ("{host: [a.b, c.d]}", "{host: [c.d, a.b], path: {regex: x}}"),
    ("{listeners: [web, other]}", "{path: {regex: ^/x}}"),
])
def test_routes_that_never_win(first: str, second: str) -> None:
    rest = "- {service: app, host: x.y, path: /rest}\n"
    text = f"- {{name: first, service: app, {first[1:]}\n- {{service: app, {second[1:]}\n{rest}"
    assert routes(text) == [f"c.yaml:5:3: {SHADOWED}"]


@pytest.mark.parametrize(("first", "second"), [
    ("{path: /api}", "{path: {regex: '^/api'}}"), ("{path: /api}", "{path: {regex: '^/api/?x'}}"),
    ("{path: /api}", "{path: {regex: '/api/x'}}"), ("{path: /api}", "{path: {regex: '^/api/x|^/y'}}"),
    ("{path: /api}", "{path: {regex: '^/(api/x)'}}"), ("{host: a.b}", "{path: {regex: x}}"),
    ("{}", "{host: a.b, path: {regex: x}}"), ("{methods: [GET]}", "{path: {regex: x}}"),
    ("{headers: {a: b}}", "{path: {regex: x}, headers: {a: c}}"), ("{methods: [GET]}", "{methods: [GET, HEAD]}"),
    ("{methods: [GET, HEAD]}", "{methods: [GET], headers: {a: b}}"),
    ("{path: {regex: ^/x}}", "{path: {regex: ^/}}"), ("{listeners: [web]}", "{path: {regex: x}}"),
    ("{host: a.b}", "{host: [a.b, c.d], path: {regex: x}}"), ("{path: {exact: /x}}", "{path: /x}"),
    ("{listeners: [web]}", "{listeners: [other]}"),
])
def test_routes_that_may_win(first: str, second: str) -> None:
    rest = "- {service: app, host: x.y, path: /rest}\n"
    assert routes(f"- {{name: first, service: app, {first[1:]}\n- {{service: app, {second[1:]}\n{rest}") == []


def test_several_routes_together_hide_one() -> None:
    assert routes("""\
        - {service: app, methods: [GET]}
        - {name: first, service: app, methods: [POST, PUT]}
        - {service: app, methods: [GET, PUT]}
    """) == [f"c.yaml:6:3: {SHADOWED}"]


def test_circles() -> None:
    circle = 'c.yaml:{place}: warning: {address} is our own listener "{listener}", which leads back to the service "{service}": ' \
             "requests would go in circles"
    assert warned(LISTENERS + 'services: {app: {endpoints: ["10.0.0.1:80", "127.0.0.1:8080"]}}\nroutes: [{service: app}]') == [
        circle.format(place="2:45", address="127.0.0.1:8080", listener="web", service="app")]
    assert warned("""\
listeners:
  a: {bind: ":1", protocol: tcp, service: to-b}
  b: {bind: "unix:/b.sock", protocol: tcp, service: to-a}
services:
  to-a: {endpoints: ["127.0.0.1:1"]}
  to-b: {endpoints: ["unix:/b.sock"]}
""") == [circle.format(place="5:22", address="127.0.0.1:1", listener="a", service="to-a"),
         circle.format(place="6:22", address="unix:/b.sock", listener="b", service="to-b")]


def test_one_listener_before_another_is_no_circle() -> None:
    assert warned("""\
listeners:
  front: {bind: ":1", protocol: tcp, service: inner}
  inner: {bind: "127.0.0.1:2", protocol: http}
services:
  inner: {endpoints: ["127.0.0.1:2"]}
  app: {endpoints: ["10.0.0.1:1"]}
routes: [{service: app}]
""") == []
