"""The reference page of the configuration, from the same dataclasses, shapes and docstrings as the loader.

`python -m edgeproxy.config.reference > docs/reference.md`.
"""
from __future__ import annotations

import sys

from edgeproxy.config import model
from edgeproxy.config.schema import all_maps, default_of, doc_of
from edgeproxy.config.shapes import Choice, Entries, ListOf, MapOf, Named, OneKey, Pairs, Part, Scalar, Shape, ShortOr

_HEAD = """\
# Configuration reference

<!-- Made by `python -m edgeproxy.config.reference`; changes belong into edgeproxy/config/model.py. -->

One YAML file, or several: `-c` may be given more than once and may name a directory (its `*.yaml`, sorted).
`listeners`, `routes` and `services` of all files go together; a name given twice is an error. The smallest useful file:

```yaml
listeners: {web: {bind: ":8080", protocol: http}}
routes: [{service: hello}]
services: {hello: {endpoints: ["127.0.0.1:9001", "127.0.0.1:9002"]}}
```

**Values.** A *duration* is `250ms`, `5s`, `2m`, `3h` or a number of seconds; a *size* is `512B`, `16KiB`, `1MiB`,
`1GiB` or a number of bytes; a *name* is a word of letters and digits with `-`, `_` and `.` in it. Text is taken as
written: `no`, `012` and `22:22` are text where text is expected. `${NAME}` and `${NAME:-default}` come from the
environment, `$${` is a literal `${`; within `[ ]` and `{ }` such a value is quoted. Relative paths are relative to the
file. Addresses are IP addresses or `unix:/path`, `localhost` means 127.0.0.1; names are resolved in services only, in
`endpoints`, `dns` and `external_name`. A key that is not required may also be given as `null`, which is as if it were
left out.

**Mistakes.** Whatever is not written here is refused: an unknown key, a key given twice, a value of the wrong kind, a
name that nothing has. All mistakes are told at once, each with its place, and nothing is started or changed. An alias
(`*x`) may repeat a whole value; merge keys (`<<`) are refused. For editors there is a JSON Schema,
[edgeproxy.schema.json](../conf/edgeproxy.schema.json), also printed by `edgeproxy schema`.
"""

_TITLES: dict[type, str] = {
    model.Config: "The file",
    model.Listener: "listeners.NAME",
    model.ListenerTls: "listeners.NAME.tls",
    model.CertificatePair: "listeners.NAME.tls.certificates[], services.NAME.tls.client_cert",
    model.ClientAuth: "listeners.NAME.tls.client_auth",
    model.ProxyProtocol: "listeners.NAME.proxy_protocol",
    model.ListenerLimits: "listeners.NAME.limits",
    model.ListenerTimeouts: "listeners.NAME.timeouts",
    model.Route: "routes[]",
    model.WeightedService: "routes[].service[]",
    model.Rewrite: "routes[].rewrite",
    model.Redirect: "routes[].redirect",
    model.Respond: "routes[].respond",
    model.HeaderEdits: "routes[].request_headers, response_headers",
    model.RouteTimeouts: "routes[].timeouts",
    model.Retry: "routes[].retry",
    model.Service: "services.NAME",
    model.EndpointAddress: "services.NAME.endpoints[]",
    model.DnsSource: "services.NAME.dns[]",
    model.ServiceTls: "services.NAME.tls",
    model.SourceHash: "services.NAME.balance.source-hash",
    model.ClientIp: "services.NAME.affinity.client_ip",
    model.AffinityCookie: "services.NAME.affinity.cookie",
    model.Health: "services.NAME.health",
    model.HttpProbe: "services.NAME.health.http",
    model.GrpcProbe: "services.NAME.health.grpc",
    model.Eject: "services.NAME.eject",
    model.ServiceLimits: "services.NAME.limits",
    model.ServiceTimeouts: "services.NAME.timeouts",
    model.PoolLimits: "services.NAME.pool",
    model.Resolver: "resolver",
    model.Admin: "admin",
    model.AccessLog: "access_log",
    model.Shutdown: "shutdown",
}
_BEFORE: dict[type, str] = {
    model.Route: "The most specific route that matches entirely wins. Host first: a name beats `*.` beats `**.` (the "
                 "longest first) beats none. Then the path: exact, the longest prefix, regexes in the order of the "
                 "file. Then a method condition before none, more header conditions before fewer, more query "
                 "conditions before fewer, the order of the file. Two routes with the very same match on one listener "
                 "are an error.",
    model.EndpointAddress: "An address in one word is the same as `{address: …}`.",
    model.WeightedService: "A name in one word is the same as `{name: …}`.",
    model.DnsSource: "A name in one word is the same as `{name: …}`; its port may stand behind it in both.",
}
_WORDS = {"whole": "number", "boolean": "`true` or `false`", "line": "text", "value": "text", "file": "file",
          "file-path": "file", "https-port": "`true`, `false` or a port",
          "bind": "address", "endpoint": "address", "host-pattern": "host", "authority": "host, or host:port",
          "prefix": "path", "target": "path", "edited-field": "header", "probe-field": "header",
          "probe-method": "method", "cookie-name": "name", "secret": "text",
          "dns-name": "name, or name:port", "external-name": "name, or name:port", "nameserver": "address",
          "status-range": "status, or a range", "matched-field": "header", "field": "header",
          "retry-condition": "`connect`, `reset`, `timeout` or a status"}


def page() -> str:
    """The whole page, Markdown."""
    blocks = [_HEAD]
    maps = {shape.kind: shape for shape in all_maps()}
    for kind, title in _TITLES.items():
        rows = [_row(kind, part) for part in maps[kind].parts.values()]
        before = f"{_BEFORE[kind]}\n\n" if kind in _BEFORE else ""
        table = "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows])
        blocks.append(f"## {title}\n\n{before}{table}\n")
    return "\n".join(blocks)


def _row(kind: type, part: Part) -> str:
    words = doc_of(kind, part.name)
    cells = (f"`{part.key}`", _brief(part.shape), _default(part), words)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(part: Part) -> str:
    if part.required:
        return "required"
    default = default_of(part)
    if default is None:
        return ""
    if isinstance(default, list):
        return "`[" + ", ".join(str(item) for item in default) + "]`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`" if default != "" else '`""`'


def _brief(shape: Shape) -> str:
    """What may stand there, in a few words."""
    match shape:
        case Scalar():
            return _WORDS.get(shape.form.name, shape.form.name)
        case Choice():
            return " | ".join(f"`{option}`" for option in shape.options)
        case ListOf(or_one=True):
            word = f"`{shape.empty}`, " if shape.empty else ""
            return f"{word}{_brief(shape.item)}, or a list"
        case ListOf():
            return f"list: {_brief(shape.item)}"
        case Pairs():
            return "map: name and service" if shape.name.form.name == "sni-pattern" else "map: name and text"
        case MapOf() if not shape.parts:
            return "`{}`"
        case MapOf():
            return f"[map](#{_anchor(_TITLES[shape.kind])})"
        case Named():
            return f"map: name and [map](#{_anchor(_TITLES[shape.item.kind])})"
        case Entries():
            return f"list: [map](#{_anchor(_TITLES[shape.item.kind])})"
        case ShortOr():
            return f"{_brief(shape.short)}, or {_brief(shape.full)}"
        case OneKey():
            return ", ".join(_one_key(key, option) for key, option in shape.options.items())
    return shape.words


def _one_key(key: str, shape: Shape) -> str:
    """With a link, if there is a table of what goes into it."""
    return f"[`{{{key}: …}}`](#{_anchor(_TITLES[shape.kind])})" if isinstance(shape, MapOf) else f"`{{{key}: …}}`"


def _anchor(title: str) -> str:
    """As GitHub and MkDocs make it of a heading."""
    kept = "".join(char for char in title.lower() if char.isalnum() or char in " -_")
    return kept.replace(" ", "-")


if __name__ == "__main__":
    sys.stdout.write(page())
