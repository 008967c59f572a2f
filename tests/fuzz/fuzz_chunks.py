"""Fuzzes chunked bodies: both engines agree on any bytes, whole and in pieces.

`python tests/fuzz/fuzz_chunks.py -max_total_time=60`, see `leaf_fuzz.py`. The first byte says how the rest is cut.
"""
from __future__ import annotations

import sys

from leaf_fuzz import corpus, engines, run

ENGINES = engines()

from leaf_messages import by_byte, feed  # noqa: E402


def one_input(data: bytes) -> None:
    """Raises AssertionError for a finding."""
    step, raw = data[0] if data else 0, data[1:]
    pieces = by_byte(raw) if step < 2 else [raw[at:at + step] for at in range(0, len(raw), step)]
    for limit in (4096, 20):
        got = [feed(leaf, way, limit) for leaf in ENGINES for way in ([raw], pieces)]
        assert all(one == got[0] for one in got), got


def bodies() -> list[bytes]:
    rows = [row.partition(b"\r\n\r\n")[2] for row in corpus() if b"hunked" in row]
    return [b"\x03" + row for row in rows if row] + [b'\x01a;b="c;\\"";d\r\n0123456789\r\n0\r\nA: b\r\nHost: c\r\n\r\nGET']


if __name__ == "__main__":
    sys.exit(run(one_input, bodies()))
