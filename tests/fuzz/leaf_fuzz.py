"""What the fuzz targets of the codec share: seeds, the way to atheris, and a stand-in for it.

With atheris (the extra `fuzz`) the inputs are guided by coverage of the Python twin; without it they are random
changes of the seeds, for as many seconds as `-max_total_time` says.
"""
from __future__ import annotations

import importlib
import json
import random
import sys
import time
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

try:
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    atheris = None

TESTS = Path(__file__).resolve().parents[1]
PIECES = (b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"\x7f", b"\xff", b"0", b"chunked", b"Connection: ", b"Host: a\r\n",
          b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"%2e", b"%00", b"/../", b"?", b"#", b"\r\n\r\n")


def engines() -> list[ModuleType]:
    """The twin, watched by atheris, and the native leaf functions if they are built."""
    sys.path[:0] = [str(TESTS.parent), str(TESTS / "codec")]
    if atheris is not None:
        with atheris.instrument_imports(include=["edgeproxy.codec"]):
            from edgeproxy.codec import _pure as pure
    else:
        from edgeproxy.codec import _pure as pure
    try:
        from edgeproxy.codec import _native as native
    except ImportError:
        sys.stderr.write("the native codec is not built: the twin runs alone\n")
        return [pure]
    return [pure, native]


def instrumented(name: str) -> ModuleType:
    """A module of the codec that has no twin, watched by atheris."""
    sys.path[:0] = [str(TESTS.parent), str(TESTS / "codec")]
    if atheris is not None:
        with atheris.instrument_imports(include=["edgeproxy.codec"]):
            return importlib.import_module(name)
    return importlib.import_module(name)


def corpus() -> list[bytes]:
    """The rows of tests/corpus that are not long."""
    rows = (b64decode(json.loads(line)["raw"]) for path in sorted((TESTS / "corpus").glob("*.jsonl"))
            for line in path.read_text(encoding="utf-8").splitlines())
    return [row for row in rows if len(row) < 2000]


def _changed(rng: random.Random, seeds: list[bytes]) -> bytes:
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(0, 4)):
        at = rng.randrange(len(data) + 1)
        other = rng.choice(seeds)
        piece = rng.randrange(len(other) + 1)
        data[at:at + rng.choice((0, 0, 1, 5))] = rng.choice((b"", rng.choice(PIECES), rng.randbytes(1), other[piece:piece + rng.randint(1, 30)]))
    return bytes(data)


def run(one_input: Callable[[bytes], Any], seeds: list[bytes]) -> int:
    """The whole program of a target: fuzz until the time is over. Whatever `one_input` raises is a finding."""
    if atheris is not None:
        for directory in (Path(arg) for arg in sys.argv[1:]):
            if directory.is_dir() and not any(directory.iterdir()):
                for number, seed in enumerate(seeds):
                    (directory / f"seed-{number}").write_bytes(seed)
        atheris.Setup(sys.argv, one_input)
        atheris.Fuzz()
        return 0
    seconds = float(next((arg.partition("=")[2] for arg in sys.argv if arg.startswith("-max_total_time=")), "10"))
    rng, end, count = random.Random(time.time_ns()), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = _changed(rng, seeds)
        try:
            one_input(data)
        except BaseException:
            sys.stderr.write(f"found: {data!r}\n")
            raise
        count += 1
    sys.stdout.write(f"{count} inputs, nothing found\n")
    return 0
