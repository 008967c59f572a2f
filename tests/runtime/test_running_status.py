"""The status of a running proxy: what it says of services, endpoints, names, certificates; and that reading is all."""
from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from config.pems import NOW, pem
from edgeproxy.config import model
from edgeproxy.config.certificates import read_certificate
from edgeproxy.policy.endpoint import DOWN, EJECTED, Endpoint, EndpointState, target
from edgeproxy.runtime import status
from edgeproxy.runtime.status import Running, Unknown
from edgeproxy.snapshot import Live, Rules, Snapshot
from edgeproxy.upstream.events import Events
from edgeproxy.upstream.names import NameView
from edgeproxy.upstream.service import Service


def running(config: model.Config, **parts: Any) -> Running:
    """Of services that nobody uses; `parts` of the registry besides."""
    events = Events()
    loop = asyncio.new_event_loop()
    loop.close()
    services = {name: Service(loop, service, random.Random(0), None, events)
                for name, service in config.services.items()}
    kept: Any = SimpleNamespace(**({"services": services, "discoveries": {}, "events": events} | parts))
    return Running(Live(Snapshot(config, services, Rules({}, {}, {}, {}))), {}, (), kept)


def whole(found: Any) -> Any:
    return json.loads("".join(status.pieces(found)))


def app(*endpoints: model.EndpointAddress, **parts: Any) -> model.Config:
    return model.Config({}, services={"app": model.Service("app", endpoints, **parts)})


def state(address: str, weight: int = 1, backup: bool = False, ready: bool = True, handicap: float = 0.0
          ) -> EndpointState:
    made = EndpointState(Endpoint(address), weight, backup)
    made.ready, made.handicap, made.state = ready, handicap, "up" if ready else DOWN
    return made


def ejected(address: str, **parts: Any) -> EndpointState:
    made = state(address, ready=False, **parts)
    made.state = EJECTED
    return made


@pytest.mark.parametrize(("states", "panic", "shares"), [
    ([state("a"), state("b", 3)], False, {"a": 0.25, "b": 0.75}),
    ([state("a"), state("b", 0), state("c", backup=True)], False, {"a": 1.0}),
    ([state("a", ready=False), state("c", backup=True)], False, {"c": 1.0}),
    ([state("a", ready=False), state("b", ready=False)], False, {}),
    ([state("a", ready=False), state("b", ready=False)], True, {"a": 0.5, "b": 0.5}),
    ([ejected("a"), state("b", ready=False), ejected("c", backup=True)], True, {"a": 1.0}),
    ([ejected("a"), state("b", ready=False)], False, {"a": 1.0}),
    ([state("a"), state("b", handicap=3.0)], False, {"a": 0.8, "b": 0.2}),
    ([], False, {})])
def test_shares(states: list[EndpointState], panic: bool, shares: dict[str, float]) -> None:
    assert status.shares(states, panic) == pytest.approx(shares)


@pytest.mark.parametrize(("states", "panic", "told"), [
    ([state("a"), state("b", ready=False)], True, ""), ([state("a", ready=False)], False, ""), ([], True, ""),
    ([state("a", ready=False), state("b", 0, ready=False)], True, "panic: all are used"),
    ([state("a", ready=False), ejected("b")], True, "none is ready: those that were ejected are used")])
def test_who_serves_though_none_is_ready(states: list[EndpointState], panic: bool, told: str) -> None:
    assert status.fallback(states, panic) == told


@pytest.mark.parametrize(("address", "told"), [
    ("127.0.0.11", "did you mean 127.0.0.11:26001?"), ("127.0.0.11:80", "did you mean 127.0.0.11:26001?"),
    ("web.test", "did you mean 127.0.0.14:26001?"), ("::1", "did you mean [::1]:26001?"),
    ("127.0.0.13", "there is 127.0.0.13:26001, 127.0.0.13:26002"), ("127.0.0.13:26003", "did you mean 127.0.0.13:26002?"),
    ("x", "there is 127.0.0.11:26001, ")])
def test_the_nearest_endpoint_is_of_the_same_host(address: str, told: str) -> None:
    places = [("127.0.0.11", 26001), ("127.0.0.13", 26001), ("127.0.0.13", 26002), ("::1", 26001)]
    found = running(app(*(model.EndpointAddress(*place) for place in places)))
    service = found.kept.services["app"]
    service.supply([target("127.0.0.14", 26001, name="web.test")], "")
    assert status.instead_of(address, service).startswith(f"service app has no endpoint {address}; {told}")


def test_a_path_is_shown_short_where_that_is_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "far" / "srv").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "srv")
    assert status._shown(f"{tmp_path}/far/../tls/a.crt") == f"{tmp_path}/tls/a.crt"
    assert status._shown(f"{tmp_path}/link/../tls/a.crt") == f"{tmp_path}/link/../tls/a.crt"


def test_a_service_and_its_endpoints() -> None:
    found = running(app(model.EndpointAddress("10.0.0.1", 80), model.EndpointAddress("10.0.0.2", 80, backup=True),
                        balance=model.Balance("hash", "header", "x-user"),
                        affinity=model.Affinity(model.ClientIp(60.0)), limits=model.ServiceLimits(5, 7)))
    service = found.kept.services["app"]
    first, _ = service.view.members
    service.enter(first)
    service.supply([target("10.0.0.9", 80, name="web.test")], "")
    service.administer("10.0.0.1:80", "disabled")
    before = [(m.active, m.total, m.ready) for m in service.view.members]
    [told] = whole(status.status(found))["services"]
    assert (told["picker"], told["hash_of"], told["ready"], told["size"]) == ("hash", "header x-user", 2, 3)
    assert told["affinity"] == {"by": "client_ip", "timeout": 60.0, "clients": 0}
    assert (told["waiting"], told["queue"], told["per_endpoint"], told["unresolved"]) == (0, 7, 5, None)
    one, two, three = told["endpoints"]
    assert (one["state"], one["ready"], one["active"], one["total"], one["share"]) == ("disabled", False, 1, 1, 0.0)
    assert one["reason"] == "by an admin" and 0.0 <= one["since"] < 60.0
    assert (two["backup"], two["state"], two["share"]) == (True, "up", 0.0)
    assert (three["name"], three["share"], three["latency_ms"], three["ramp"]) == ("web.test", 1.0, None, None)
    assert before == [(m.active, m.total, m.ready) for m in service.view.members]


def test_what_leaves_is_told_while_it_is_used() -> None:
    found = running(app(model.EndpointAddress("10.0.0.1", 80)))
    service = found.kept.services["app"]
    service._loop = SimpleNamespace(call_later=lambda *_: None)  # type: ignore[assignment]  # nobody looks again
    service.supply([target("10.0.0.9", 80)], "")
    service.enter(service.view.members[1])
    service.supply([], "")
    [told] = whole(status.status(found))["services"]
    assert [(one["address"], one["state"], one["active"]) for one in told["leaving"]] == [("10.0.0.9:80", "draining", 1)]


def test_names() -> None:
    view = NameView("web.test", "A", ("10.0.0.1",), 12.34, 5.0, 2, ("a.test", "b.test"), True, 3.0, "timeout", "10.0.0.53:53",
                    {"found": 1})
    found = running(app(model.EndpointAddress("10.0.0.1", 80)), discoveries={"app": SimpleNamespace(names=[view])})
    assert whole(status.status(found))["dns"] == whole(status.names(found, "app")) == [{
        "service": "app", "name": "web.test", "type": "A", "addresses": ["10.0.0.1"], "ttl_left": 12.3, "next_in": 5.0,
        "chain": ["a.test", "b.test"], "stale_for": 3.0, "failures": 2, "error": "timeout", "server": "10.0.0.53:53",
        "queries": {"found": 1}}]
    assert whole(status.names(found, "other")) == []


def test_certificates_and_who_uses_them(tmp_path: Path) -> None:
    cert, key = pem("site.test", days=30).write(tmp_path, "site")
    pair = model.CertificatePair(cert, key)
    config = model.Config(
        {name: model.Listener(name, (), "https", tls=model.ListenerTls((pair,))) for name in ("a", "b")},
        services={"app": model.Service("app", protocol="https", tls=model.ServiceTls(client_cert=pair))},
        certificates={(cert, key): read_certificate(cert, key, NOW)})
    [told] = status._certificates(config, NOW)
    assert (told["cert"], told["names"], told["expired"]) == (cert, ["site.test"], False)
    assert told["days_left"] in (29, 30) and told["used_by"] == ["listener a", "listener b", "service app"]
    assert "key" not in told and "PRIVATE" not in json.dumps(told)
    assert status._certificates(config, NOW + 40 * 86400)[0]["expired"]


@pytest.mark.parametrize(("name", "text"), [
    ("ap", "no service ap; did you mean app?"), ("other", "no service other; there is app")])
def test_an_unknown_service(name: str, text: str) -> None:
    with pytest.raises(Unknown, match=text.replace("?", r"\?")):
        status.status(running(app(model.EndpointAddress("10.0.0.1", 80))), name)


def test_many_names_are_not_all_told() -> None:
    config = model.Config({}, services={f"s{i}": model.Service(f"s{i}") for i in range(20)})
    with pytest.raises(Unknown, match="there is s0, .*, s9 and 10 more"):
        status.service_named(running(config), "xyz")


@pytest.mark.parametrize("value", [
    {}, [], {"a": []}, {"a": {}, "b": [1, 2]}, {"a": [{"b": [{"c": None}]}, {}]}, [{"ü": "\n\x1b"}], "x", None,
    {"a": "b", "c": {"d": [{}]}}])
def test_pieces_are_json(value: Any) -> None:
    assert json.loads("".join(status.pieces(value))) == value


def test_iterators_are_arrays() -> None:
    assert whole({"a": iter([]), "b": ({"c": iter([i])} for i in range(2))}) == {"a": [], "b": [{"c": [0]}, {"c": [1]}]}
