"""A name with an A and an AAAA record, of which one cannot be connected to: it loses to the other, and no request does."""
from __future__ import annotations

import pytest

from dnspeers import ScriptedDns, addresses
from e2e.pods import Pods, named
from e2e.program import StartEdge, free_port
from e2e.test_dns_faults import NAME, pods, scripted
from e2e.waiting import eventually
from e2e.wire import ask

__all__ = ["pods", "scripted"]  # the fixtures


@pytest.mark.parametrize("way", ["http", "tcp"])
@pytest.mark.parametrize("dead", ["v6", "v4"])
def test_a_family_that_cannot_be_connected_to_loses(
        edge: StartEdge, pods: Pods, scripted: ScriptedDns, way: str, dead: str) -> None:
    lives = pods.at(1) if dead == "v6" else "::1"
    pods.start(lives)
    scripted.says(NAME, "A", addresses(pods.at(1)))
    scripted.says(NAME, "AAAA", addresses("::1"))
    web, relay = free_port(), free_port()
    proxy = edge(named(web, relay, f"dns: '{NAME}.:{pods.port}', eject: {{failures: 3, within: 60s, for: 60s}}", scripted))
    port = web if way == "http" else relay
    lost = f"[::1]:{pods.port}" if dead == "v6" else f"{pods.at(1)}:{pods.port}"
    eventually(lambda: "[::1]:" in proxy.errors and f"{pods.at(1)}:" in proxy.errors, "both families are in use")
    for _ in range(40):
        answer = ask(port)
        assert (answer.status, answer.text) == (200, lives)
    lines = proxy.logged(40)
    failures = [line["attempts"] for line in lines if line["attempts"]]
    assert failures == [[{"endpoint": lost, "reason": "connect_refused"}]] * 3, "and then it is asked no more"
    [told] = [line for line in proxy.errors.splitlines() if "ejected" in line]
    assert f"endpoint {lost} ejected for 60 s: 3 failures within 60 s, the last: connect_refused" in told
    assert lines[-1]["endpoint"] != lost and pods.sockets.keys() == {lives}
