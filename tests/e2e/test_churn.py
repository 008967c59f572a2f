"""Many short connections, half of them half-closed, on both loops: the process lives and gives everything back.

uvloop's own transports abort the process within a second of this (`write_eof` with a read side kept open).
"""
from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from e2e.backends import Nginx, StartActor, echoing
from e2e.program import StartEdge, free_port
from e2e.waiting import eventually
from e2e.wire import connect

pytestmark = pytest.mark.alone

THREADS = 4


def _relay(port: int, number: int) -> None:
    with connect(port) as client:
        data = b"%d" % number
        client.send(data)
        if number % 2:  # half of them half-closed
            client.half_close()
            assert client.ending()[0] == data
        elif number % 4:
            assert client.exactly(len(data)) == data
        else:
            client.reset()


def _http(port: int, number: int) -> None:
    with connect(port) as client:
        client.get()
        if number % 8 == 2:
            client.reset()
            return
        if number % 2:
            assert client.response().status == 200
            client.half_close()
            client.ending()
        else:
            assert client.response().status == 200


def _churn(number: int, relay: int, web: int) -> None:
    left = iter(range(number))
    lock = threading.Lock()

    def run(_: int) -> None:
        while True:
            with lock:
                one = next(left, None)
            if one is None:
                return
            _relay(relay, one)
            _http(web, one)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(run, range(THREADS)))


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_everything_is_given_back(
        edge: StartEdge, actor: StartActor, nginx: Nginx, loop: str, long: bool) -> None:
    number = 25_000 if long else 2_500  # of each kind
    relay, web = free_port(), free_port()
    echoes = actor(echoing).port
    proxy = edge(f"listeners:\n  web: {{bind: '127.0.0.1:{web}', protocol: http}}\n"
                 f"  relay: {{bind: '127.0.0.1:{relay}', protocol: tcp, service: echoes}}\n"
                 "routes: [{service: app}]\nservices:\n"
                 f"  app: {{endpoints: ['127.0.0.1:{nginx['a']}'], timeouts: {{idle: 300ms}}}}\n"
                 f"  echoes: {{endpoints: ['127.0.0.1:{echoes}'], eject: {{failures: 0}}}}\n",
                 {"EDGEPROXY_LOOP": loop})
    bare = proxy.descriptors
    _churn(50, relay, web)
    eventually(lambda: proxy.descriptors == bare, "every descriptor is given back")
    memory = proxy.memory
    _churn(number, relay, web)
    assert proxy.alive
    eventually(lambda: proxy.descriptors == bare, "every descriptor is given back", seconds=10)
    total = 2 * (number + 50)
    eventually(lambda: proxy.log.read_bytes().count(b"\n") == total, "a line for each connection", seconds=10)
    assert proxy.memory - memory < 16 << 20
