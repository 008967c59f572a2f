"""A stream whose answer was whole before its request is not left behind on the connection that others share."""
from __future__ import annotations

import pytest

from edgeproxy.codec.h2 import H2Limits
from edgeproxy.errors import OK
from fakes import Asker
from net.rig import Endpoint, Run, both_loops
from upstream.h2place import CANCEL, H2World, engine, h2_accepted

__all__ = ["engine"]


@both_loops
@pytest.mark.parametrize("body", [b"", b"early"], ids=["head", "body"])
def test_an_early_answer_while_the_request_waits_for_a_window(run: Run, body: bytes) -> None:
    """The client has sent all of it, the endpoint wants no more of it and does not say so."""
    async def main() -> None:
        async with H2World(Endpoint()) as w:
            asker = Asker(w)
            exchange = asker.ask(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n" + bytes(50_000))
            talk = await h2_accepted(w.places[0], H2Limits(window=1000))
            talk.greedy = False
            asked = await talk.request(whole=False)
            await talk.until(lambda: len(asked.body) == 1000)
            await talk.answer(asked.stream, body)
            assert await w.ends() is exchange and exchange.outcome == OK and asker.body == body
            await talk.until(lambda: asked.reset == CANCEL)
            assert w.connections()[0].codec.open == 0

    run(main)
