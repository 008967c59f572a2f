"""Both HTTP/2 engines tell their user the same of the same bytes, however those are cut: random scripts of frames."""
from __future__ import annotations

import random
from typing import Any

import h2_play as play
import pytest
from h2_play import DATA, END, END_HEADERS, GET, HEADERS, PADDED, POST, End

from edgeproxy.errors import Kind

FIELDS = [(b"x", b"y"), (b"te", b"trailers"), (b"te", b"gzip"), (b"content-length", b"3"), (b"content-length", b"0"),
          (b"content-length", b"+3"), (b"host", b"a"), (b"host", b"b c"), (b"Upper", b"x"), (b"connection", b"close"), (b"", b"x"),
          (b"a b", b"x"), (b"x", b" y"), (b"x", b"y\r\n"), (b"x", b"\xff\t\x80"), (b":path", b"/x"), (b":status", b"200"), (b":unknown", b"x"),
          (b"cookie", b"a=1"), (b"upgrade", b"h2c"), (b"transfer-encoding", b"chunked"), (b"x-empty", b""), (b"priority", b"u=1"),
          (b":authority", b"a@b"), (b":method", b"CONNECT"), (b":scheme", b"ftp"), (b":path", b"*"), (b":path", b"")]
STATUSES = [b"200", b"200", b"204", b"304", b"100", b"103", b"101", b"99", b"2000", b""]


def _head(rng: random.Random, client: bool) -> list[tuple[bytes, bytes]]:
    """Half of them are as they should be."""
    fields = [(b":status", rng.choice(STATUSES[:6]))] if client else list(rng.choice((GET, POST)))
    if rng.random() < 0.5:
        return fields
    if rng.random() < 0.3:
        fields = [(b":status", rng.choice(STATUSES))] if client and rng.random() < 0.5 else []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        fields.insert(rng.randint(0, len(fields)) if rng.random() < 0.1 else len(fields), rng.choice(FIELDS))
    if fields and rng.random() < 0.05:
        del fields[rng.randrange(len(fields))]
    return fields


def _piece(rng: random.Random, client: bool, stream: int) -> bytes:
    """A frame or two, mostly of a kind that a well-meaning peer might send."""
    ended = rng.random() < 0.5
    roll = rng.randrange(32)
    if roll < 10:
        return play.head(stream, _head(rng, client), ended)
    if roll < 18:
        return play.data(stream, rng.choice((b"", b"abc", b"x" * 2000)), ended)
    if roll < 20:
        return play.rst(stream, rng.choice((0, 2, 7, 8)))
    if roll == 20:
        block = play.block(_head(rng, client))
        at = rng.randint(0, len(block))
        return (play.frame(HEADERS, END if ended else 0, stream, block[:at])
                + play.frame(play.CONTINUATION, END_HEADERS if rng.random() < 0.9 else 0, stream, block[at:]))
    if roll == 21:
        return play.frame(DATA, PADDED | (END if ended else 0), stream, bytes((rng.randint(0, 6),)) + b"abc\0\0")
    if roll == 22:
        return play.frame(HEADERS, END_HEADERS | PADDED | END, stream, b"\x02" + play.block(_head(rng, client)) + b"\0\0")
    if roll == 23:
        return play.frame(HEADERS, END_HEADERS | 32, stream, rng.choice((0, 1, stream)).to_bytes(4, "big") + b"\0" + play.block(_head(rng, client)))
    return rng.choice((
        play.window(0, 1000), play.window(stream, rng.choice((1, 70000, 2**31 - 1))), play.window(stream, 0) if ended else play.ping(),
        play.ping(), play.ping(True), play.settings((4, rng.choice((65535, 70000)))), play.settings((3, 2)), play.settings((1, 0)),
        play.frame(play.PRIORITY, 0, stream, b"\0\0\0\0\x01"), play.frame(99, 255, stream, b"?"), play.goaway(rng.choice((0, 1, 3, 2**31 - 1))),
        play.frame(HEADERS, END_HEADERS | END, stream, bytes(rng.randrange(256) for _ in range(5))) if ended else b""))


def _script(seed: int, client: bool) -> bytes:
    rng = random.Random(seed)
    parts: list[bytes] = []
    fresh = [1, 3, 5] if client else list(range(1, 41, 2))
    alive = list(fresh) if client else []
    for stream in alive:
        if rng.random() < 0.9:
            parts.append(play.head(stream, _head(rng, client), False))
    for _ in range(rng.randint(2, 14)):
        roll = rng.random()
        if not client and (roll < 0.3 or not alive):
            alive.append(fresh.pop(0))
            parts.append(play.head(alive[-1], _head(rng, client), rng.random() < 0.3))
        elif roll < 0.97 and alive:
            parts.append(_piece(rng, client, rng.choice(alive)))
        else:
            parts.append(_piece(rng, client, rng.choice((0, 1, 2, 3, 99))))
        for kind, flags, stream, _ in play.frames(parts[-1]):
            if stream in alive and (kind == play.RST_STREAM or (kind in (DATA, HEADERS) and flags & END)) and rng.random() < 0.98:
                alive.remove(stream)
    return b"".join(parts) + play.ping()  # a head that is not whole is an error then


def _play(engine: str, client: bool, pieces: list[bytes]) -> End:
    end = End(engine, client, hold=not client)
    if client:
        for method in (b"GET", b"HEAD", b"POST"):
            end.codec.request([(b":method", method), *GET[1:]], method != b"POST")
        end.codec.output()
    for piece in pieces:
        end.take(piece)
    return end


def _outcome(engine: str, client: bool, pieces: list[bytes]) -> tuple[Any, ...]:
    end = _play(engine, client, pieces)
    kind = end.error.kind if end.error else None
    if kind is Kind.H2_FLOOD:  # what else came in the same read may have been told or not
        return (kind,)
    told = play.by_stream([call for call in end.calls if call[0] != "cut"])
    if kind or (end.codec.exhausted and not end.codec.open):
        # In the end of it all, an engine may have seen what came behind in the same read, or not.
        told.pop(0, None)
        return (told,)
    # A reset of ours that one of the peer overtook may be dropped; behind a GOAWAY, what nobody was told of may have one.
    raw, left = b"".join(pieces), any(call[0] == "going_away" for call in end.calls)
    ours = [] if left else [one for one in sorted(play.resets(end.sent)) if play.rst(one[0])[:9] not in raw]
    return told, play.by_stream(end.calls), ours, end.codec.open


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
@pytest.mark.parametrize("part", range(8))
def test_engines_agree(part: int, client: bool) -> None:
    for seed in range(part * 40, part * 40 + 40):
        raw = _script(seed, client)
        wanted = _outcome("ngh2", client, [raw])
        for engine in play.ENGINES:
            for pieces in play.ways(raw, seed, 2):
                assert _outcome(engine, client, pieces) == wanted, (seed, engine, len(pieces), raw)


def test_scripts_are_worth_it() -> None:
    """Random scripts get somewhere: most are not refused at their first frames."""
    for client, word in ((False, "opened"), (True, "answered")):
        ends = [_play("ngh2", client, [_script(seed, client)]) for seed in range(100)]
        assert sum(any(call[0] == word for call in end.calls) for end in ends) > 60
        assert sum(end.error is None for end in ends) > 30
        assert sum(any(call[0] == "data" for call in end.calls) for end in ends) > 10
        assert sum(any(call[0] == "cut" for call in end.calls) for end in ends) > 20
