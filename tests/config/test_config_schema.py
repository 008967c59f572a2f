"""The JSON Schema and the reference page: made from the model, up to date, and of one mind with the loader."""
from __future__ import annotations

import copy
import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from pems import pem

from edgeproxy import cli
from edgeproxy.config import model, reference, schema
from edgeproxy.config.load import ConfigError, load_text
from edgeproxy.config.shapes import MapOf

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "conf").glob("*.yaml"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What GOOD names."""
    made = tmp_path_factory.mktemp("schema")
    pem("a.example").write(made, "a")
    return made


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    document = schema.json_schema()
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document)


def test_schema_file_is_up_to_date() -> None:
    path = ROOT / "conf" / schema.FILE
    assert path.read_text(encoding="utf-8") == schema.text(), "python -m edgeproxy.config.schema > conf/edgeproxy.schema.json"


def test_reference_page_is_up_to_date() -> None:
    path = ROOT / "docs" / "reference.md"
    assert path.read_text(encoding="utf-8") == reference.page(), "python -m edgeproxy.config.reference > docs/reference.md"


@pytest.mark.parametrize("shape", schema.all_maps(), ids=lambda shape: shape.kind.__name__)
def test_every_key_says_what_it_is(shape: MapOf) -> None:
    assert all(schema.doc_of(shape.kind, part.name) for part in shape.parts.values())


def test_every_field_of_the_model_can_be_written() -> None:
    reached = {shape.kind: {part.name for part in shape.parts.values()} for shape in schema.all_maps()}
    marks = {model.Form, model.Key, model.Only, model.OneOrList}
    special = {model.Bind, model.PathMatch, model.Balance, model.Certificate, model.Affinity, model.ExternalName,
               model.Nameserver, model.StatusRange}  # short forms; test_config_values.py and test_config_discovery.py write all of them
    for kind in vars(model).values():
        if dataclasses.is_dataclass(kind) and isinstance(kind, type) and kind not in marks | special:
            names = {field.name for field in dataclasses.fields(kind)}
            names -= {"name"} if kind in (model.Listener, model.Service) else set()
            names -= {"host", "port", "path"} if kind is model.EndpointAddress else set()
            names -= {"certificates"} if kind is model.Config else set()  # what was read, no key
            assert names <= reached[kind], kind


def test_defaults_of_the_schema_are_those_of_the_model() -> None:
    """Every default, written into a file, gives what leaving it out gives."""
    document = schema.json_schema()["$defs"]
    listener: dict[str, Any] = {"bind": ":80", "protocol": "http", **defaults(document["Listener"])}
    service: dict[str, Any] = {"endpoints": [{"address": "10.0.0.1:80", **defaults(document["EndpointAddress"])}]}
    route: dict[str, Any] = {**defaults(document["Route"]), "service": "s"}
    for target, kinds in ((listener, {"limits": "ListenerLimits", "timeouts": "ListenerTimeouts"}),
                          (route, {"timeouts": "RouteTimeouts", "retry": "Retry"}),
                          (service,
                           {"eject": "Eject", "limits": "ServiceLimits", "timeouts": "ServiceTimeouts",
                            "pool": "PoolLimits", "health": "Health"})):
        target.update({key: defaults(document[kind]) for key, kind in kinds.items()})
    listener["timeouts"].pop("half_closed")  # tcp and tls only
    listener["timeouts"].pop("handshake")  # there is none here
    service |= defaults(document["Service"])
    service["health"] |= {"http": defaults(document["HttpProbe"])}
    service["affinity"] = {"cookie": defaults(document["AffinityCookie"])}
    service["balance"] = {"source-hash": defaults(document["SourceHash"])}
    more = {"affinity": {"client_ip": defaults(document["ClientIp"])}, "protocol": "h2c",
            "health": {"grpc": defaults(document["GrpcProbe"])}}
    written = {"listeners": {"l": listener}, "routes": [route], "services": {"s": service, "t": more},
               **{key: defaults(document[kind]) for key, kind in
                  (("access_log", "AccessLog"), ("shutdown", "Shutdown"), ("resolver", "Resolver"))}}
    short = """
listeners: {l: {bind: ":80", protocol: http}}
routes: [{service: s}]
services:
  s: {endpoints: ["10.0.0.1:80"], health: {http: {}}, affinity: {cookie: {}}, balance: source-hash}
  t: {affinity: {client_ip: {}}, health: {grpc: {}}, protocol: h2c}
"""
    assert load_text(json.dumps(written)) == load_text(short)


def defaults(definition: dict[str, Any]) -> dict[str, Any]:
    return {key: value["default"] for key, value in definition["properties"].items() if "default" in value}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_load_without_a_warning(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    """With the certificates that the lines in their comments make, as they stand there."""
    for name in ("ADDRESS", "PORT", "BACKEND", "CONNECT_TIMEOUT", "AT_ONCE", "LOG_FORMAT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    text = path.read_text(encoding="utf-8")
    copy = tmp_path / "conf" / path.name
    copy.parent.mkdir()
    copy.write_text(text, encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("#   edgeproxy cert"):
            assert cli.main(shlex.split(line)[2:]) == 0
    capsys.readouterr()
    assert cli.main(["check", "-c", str(copy)]) == 0
    said = capsys.readouterr()
    assert said.err == "" and ": ok (" in said.out
    assert text.splitlines()[0] == f"# yaml-language-server: $schema={schema.FILE}"
    assert (path.parent / schema.FILE).is_file()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_fit_the_schema(path: Path, validator: Any) -> None:
    assert [error.message for error in validator.iter_errors(yaml.safe_load(path.read_text(encoding="utf-8")))] == []


GOOD: dict[str, Any] = {
    "listeners": {
        "web": {"bind": [":80", "unix:/run/e.sock"], "protocol": "http", "trusted_proxies": ["10.0.0.0/8"],
                "limits": {"connections": 5, "header": "64KiB", "body": "${BODY:-0}"},
                "timeouts": {"idle": "75s", "tunnel": 0}},
        "db": {"bind": "127.0.0.1:5432", "protocol": "tcp", "service": "app", "timeouts": {"half_closed": 1.5}},
        "to": {"bind": ":81", "protocol": "http", "redirect_to_https": 8443, "tls": None, "sni": None, "service": None},
        "secure": {"bind": ":443", "protocol": "https", "proxy_protocol": {"from": ["10.0.0.0/8", "::1"]},
                   "tls": {"certificates": [{"cert": "a.crt", "key": "a.key"}], "default": "a.crt", "min_version": "1.3",
                           "alpn": ["h2"], "client_auth": {"ca": "a.crt", "mode": "optional"}},
                   "timeouts": {"handshake": "3s", "header": 5}},
        "pass": {"bind": ":444", "protocol": "tls", "sni": {"a.example": "app", "*.b.example": "app", "*": "app"}}},
    "routes": [
        {"service": "app"}, {"service": ["app", {"name": "app2", "weight": 0}], "path": "/x"},
        {"path": {"exact": "/ping"}, "respond": {"status": 200, "body": "pong"}},
        {"host": ["a.b", "*.c"], "redirect": {"scheme": "https"}},
        {"path": {"regex": "^/(x)"}, "service": "app", "rewrite": {"path": "/$1"}, "headers": {"x": 1},
         "retry": {"when": ["connect", 503]},
         "request_headers": {"set": {"a": "b"}, "remove": ["c"]}}],
    "services": {
        "app": {"endpoints": ["10.0.0.1:80", {"address": "10.0.0.2:80", "weight": "${W:-2}", "backup": True}],
                "balance": "least-conn",
                "eject": {"failures": 3, "for": "10s"}},
        "inner": {"protocol": "https", "endpoints": ["10.0.0.1:443"], "send_proxy_protocol": "v2",
                  "tls": {"verify": True, "ca": None, "server_name": "a.example", "client_cert": None}},
        "rpc": {"protocol": "h2c", "tls": None},
        "found": {"dns": ["a.b:80", {"name": "_c._tcp.d.", "type": "SRV", "family": "v4", "refresh": 5, "on_empty": "keep"}],
                  "external_name": "e.f:80", "endpoints": ["g.h:80"], "host": "pass", "nameservers": "10.0.0.1",
                  "family": "v6", "refresh": "1m", "on_empty": "keep", "panic": True, "slow_start": "30s", "drain": 0,
                  "balance": {"source-hash": {"ipv6_prefix": 64}}, "affinity": {"cookie": {"name": "c", "secret": "${S:-x}"}},
                  "health": {"http": {"path": "/h?x", "method": "POST", "host": "a:1", "headers": {"a": "b"}, "body": "ok",
                                      "status": [200, "300-399"]}, "interval": 1, "fall": 1, "initial": "down"}},
        "app2": {"balance": {"hash": {"header": "x-user"}}, "endpoints": []}, "app3": {"balance": {"hash": "path"}}},
    "resolver": {"nameservers": ["10.0.0.1", "[::1]:53"], "min_ttl": 0.5}, "admin": {"bind": "unix:/run/a.sock"},
    "access_log": {"path": "-", "format": "off"}, "shutdown": {"drain": "30s"},
}

Way = tuple[str | int, ...]


def test_a_good_file_is_good_for_both(validator: Any) -> None:
    assert [error.message for error in validator.iter_errors(GOOD)] == []
    load_text(json.dumps(GOOD), env={})


@pytest.mark.parametrize(("way", "value"), [
    (("odd",), 1), (("listeners", "web", "odd"), 1), (("listeners", "web", "protocol"), "https"),
    (("listeners", "web", "protocol"), "httpx"), (("listeners", "web", "tls"), {"certificates": []}),
    (("listeners", "to", "redirect_to_https"), 0), (("listeners", "to", "redirect_to_https"), "yes"),
    (("listeners", "secure", "redirect_to_https"), True), (("listeners", "secure", "tls"), None),
    (("listeners", "secure", "tls", "certificates"), []), (("listeners", "secure", "tls", "certificates", 0, "key"), None),
    (("listeners", "secure", "tls", "min_version"), 1.1), (("listeners", "secure", "tls", "alpn"), "h2"),
    (("listeners", "secure", "tls", "client_auth", "mode"), "maybe"), (("listeners", "secure", "proxy_protocol"), {}),
    (("listeners", "secure", "timeouts", "handshake"), 0), (("listeners", "pass", "sni"), []),
    (("listeners", "pass", "sni"), {"a.example": {}}), (("listeners", "pass", "limits"), {"body": 1, "odd": 2}),
    (("services", "inner", "protocol"), "h3"), (("services", "inner", "tls", "verify"), "no"),
    (("services", "inner", "tls", "odd"), 1), (("services", "inner", "send_proxy_protocol"), 2),
    (("listeners", "web", "bind"), []), (("listeners", "web", "bind"), {}),
    (("listeners", "web", "service"), "app"), (("listeners", "db", "trusted_proxies"), ["10.0.0.0/8"]),
    (("listeners", "web", "limits", "header"), "64KB"), (("listeners", "web", "limits", "header"), 0),
    (("listeners", "web", "limits", "headers"), -1), (("listeners", "web", "timeouts", "header"), "5x"),
    (("listeners", "web", "timeouts", "header"), 0), (("listeners", "web", "timeouts", "idle"), -1),
    (("listeners", "a b"), {"bind": ":1", "protocol": "http"}), (("listeners", "web"), {"bind": ":1"}),
    (("listeners", "db"), {"bind": ":1", "protocol": "tcp"}), (("routes", 0), {}),
    (("routes", 0), {"service": "app", "respond": {}}), (("routes", 0, "service"), []),
    (("routes", 0, "service"), {"nam": "app"}), (("routes", 0, "path"), {"exact": "/", "prefix": "/"}),
    (("routes", 0, "path"), {"odd": "/"}), (("routes", 0, "methods"), "GET"), (("routes", 0, "headers"), ["a"]),
    (("routes", 0, "headers"), {"a": None}), (("routes", 0, "host"), []), (("routes", 0, "retry"), {"attempts": 0}),
    (("routes", 0, "retry"), {"when": [200]}), (("routes", 0, "retry"), {"when": ["conect"]}),
    (("routes", 2, "respond", "status"), 100), (("routes", 3, "redirect", "status"), 300),
    (("routes", 3, "redirect", "port"), 0), (("routes", 1, "service", 1, "weight"), -1),
    (("services", "app", "balance"), "hash"), (("services", "app", "balance"), {"hash": {}}),
    (("services", "app", "balance"), {"hash": {"header": "a", "cookie": "b"}}),
    (("services", "app", "balance"), {"hash": "header"}), (("services", "app", "endpoints"), "10.0.0.1:80"),
    (("services", "app", "endpoints", 0), {}), (("services", "app", "endpoints", 1, "weight"), 1.5),
    (("services", "app", "endpoints", 1, "backup"), "yes"), (("services", "app", "health"), {}),
    (("services", "app", "eject", "duration"), "1s"), (("services", "app"), None),
    (("services", "found", "dns"), []), (("services", "found", "dns", 1, "type"), "MX"), (("services", "found", "dns", 0), {}),
    (("services", "found", "dns", 1, "port"), 0), (("services", "found", "family"), 4), (("services", "found", "host"), "keep"),
    (("services", "found", "external_name"), []), (("services", "found", "nameservers"), []),
    (("services", "found", "affinity"), {}), (("services", "found", "affinity"), {"client_ip": {"timeout": 86401}}),
    (("services", "found", "affinity"), {"client_ip": {}, "cookie": {}}), (("services", "found", "health", "grpc"), {}),
    (("services", "found", "health", "tcp"), {}), (("services", "found", "health", "http"), None),
    (("services", "found", "health", "http", "path"), 1), (("services", "found", "health", "rise"), 0),
    (("services", "found", "balance"), {"source-hash": {"ipv6_prefix": 0}}), (("services", "found", "panic"), 1),
    (("resolver", "nameservers"), []), (("resolver", "max_ttl"), 0), (("admin",), {}), (("admin", "bind"), None),
    (("access_log", "format"), "xml"), (("shutdown",), "30s"), (("listeners",), None),
])
def test_what_is_wrong_is_wrong_for_both(validator: Any, way: Way, value: object) -> None:
    document = copy.deepcopy(GOOD)
    target: Any = document
    for key in way[:-1]:
        target = target[key]
    target[way[-1]] = value
    assert not validator.is_valid(document)
    with pytest.raises(ConfigError):
        load_text(json.dumps(document), env={})


def test_words_of_the_model_are_those_of_the_schema() -> None:
    balance = schema.json_schema()["$defs"]["Service"]["properties"]["balance"]["anyOf"][0]["anyOf"][0]["enum"]
    assert [*balance, "hash"] == list(get_args(model.BalanceKind))
    assert set(schema.json_schema()["$defs"]["Route"]["properties"]) == set(get_type_hints(model.Route))
