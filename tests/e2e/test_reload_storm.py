"""A reload every half second under load, with routes and endpoints changing: nothing fails, nothing is cut."""
from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

from e2e.backends import Nginx, StartActor, echoing
from e2e.frames import echo, open_websocket, websocket_echo
from e2e.load import Load, wrk
from e2e.program import Edge, StartEdge, addresses, free_port
from e2e.wire import Dial, Wire


def test_nothing_fails(edge: StartEdge, nginx: Nginx, actor: StartActor, dial: Dial, long: bool) -> None:
    seconds = 60.0 if long else 8.0
    web, relay, extra = free_port(), free_port(), free_port()
    sockets, echoes, others = actor(websocket_echo), actor(echoing), actor(echoing)

    def text(number: int) -> str:
        """A different one each time: endpoints, routes, a listener and services come and go."""
        a, b, c = nginx["a"], nginx["b"], nginx["c"]
        endpoints = [addresses(a), addresses(a, b), addresses(b, c), addresses(c)][number % 4]
        more = f"  more: {{bind: '127.0.0.1:{extra}', protocol: http}}\n" if number % 3 == 0 else ""
        routes = "".join(f"  - {{host: h{n}.test, path: /{number}, service: app}}\n" for n in range(number % 50))
        return (f"listeners:\n  web: {{bind: '127.0.0.1:{web}', protocol: http}}\n{more}"
                f"  relay: {{bind: '127.0.0.1:{relay}', protocol: tcp, service: echoes}}\n"
                f"routes:\n  - {{service: app}}\n  - {{path: /websocket, service: sockets{number % 2}}}\n{routes}"
                f"services:\n  app: {{endpoints: {endpoints}, balance: {['round-robin', 'least-conn'][number % 2]}}}\n"
                f"  sockets{number % 2}: {{endpoints: {addresses(sockets.port)}}}\n"
                f"  echoes: {{endpoints: {addresses([echoes, others][number % 2].port)}}}\n")

    proxy = edge(text(0))
    counted: dict[str, int] = {}
    thread = threading.Thread(target=lambda: counted.update(wrk(web, seconds)))
    live = dial(web)
    open_websocket(live)
    relayed = [dial(relay) for _ in range(4)]
    thread.start()
    with Load(web, clients=4) as keeping, Load(web, clients=2, new_connections=True) as connecting:
        number = _storm(proxy, text, seconds, lambda: _touch(live, relayed))
    thread.join(20)
    assert keeping.tally.failed == [] and connecting.tally.failed == []
    assert keeping.tally.refused + connecting.tally.refused == 0
    assert keeping.tally.closed == 0, "not even between two requests"
    assert keeping.tally.good > 100 and connecting.tally.good > 100
    assert counted["requests"] > 100 and counted["bad"] == 0 and counted["errors"] == 0, counted
    assert number >= seconds
    assert proxy.errors.count("configuration reloaded") >= number
    outcomes = set(re.findall(r'"outcome":"(\w+)"', proxy.log.read_text()))
    assert outcomes <= {"ok", "client_gone"}, outcomes
    assert "ejected" not in proxy.errors


def _touch(live: Wire, relayed: list[Wire]) -> None:
    """The connections that are open since before the storm still carry bytes."""
    echo(live, b"are you there")
    for wire in relayed:
        wire.send(b"and you")
        assert wire.exactly(7) == b"and you"
    live.quiet(0.02)


def _storm(proxy: Edge, text: Callable[[int], str], seconds: float, touch: Callable[[], None]) -> int:
    """How many reloads there were."""
    limit = time.monotonic() + seconds
    number = 0
    while time.monotonic() < limit:
        number += 1
        due = time.monotonic() + 0.5
        assert "configuration reloaded" in proxy.reload(text(number))
        while time.monotonic() < due:
            touch()
    return number
