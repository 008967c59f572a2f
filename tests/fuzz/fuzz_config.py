"""Fuzzes the configuration: any bytes give a configuration or a ConfigError.

With atheris (the extra `fuzz`): `python tests/fuzz/fuzz_config.py -max_total_time=60 corpus/`. Without it the same
target runs over random changes of the example files, for as many seconds as `-max_total_time` says.
"""
from __future__ import annotations

import random
import sys
import time
from pathlib import Path

try:
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    atheris = None

CONF = Path(__file__).parents[2] / "conf"

if atheris is not None:
    with atheris.instrument_imports(include=["edgeproxy.config"]):
        from edgeproxy.config.check import warnings
        from edgeproxy.config.load import ConfigError, read_text
else:
    from edgeproxy.config.check import warnings
    from edgeproxy.config.load import ConfigError, read_text


def one_input(data: bytes) -> None:
    """Raises whatever should not be raised."""
    try:
        loaded = read_text(data.decode("utf-8", "surrogateescape"), env={})
        for warning in warnings(loaded.config, loaded.places):
            str(warning)
    except ConfigError as error:
        str(error)


def without_atheris(seconds: float) -> int:
    seeds = [path.read_bytes() for path in sorted(CONF.glob("*.yaml"))]
    rng = random.Random(1)
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 8)):
            start = rng.randrange(len(data) + 1)
            stop = min(len(data), start + rng.randint(0, 6))
            other = rng.choice(seeds)
            piece = rng.randrange(len(other))
            data[start:stop] = rng.choice((b"", rng.randbytes(2), other[piece:piece + rng.randint(1, 30)]))
        one_input(bytes(data))
        count += 1
    sys.stdout.write(f"{count} inputs, nothing raised\n")
    return 0


def main() -> int:
    if atheris is None:
        limit = next((arg.partition("=")[2] for arg in sys.argv if arg.startswith("-max_total_time=")), "10")
        return without_atheris(float(limit))
    for directory in sys.argv[1:]:
        if Path(directory).is_dir() and not any(Path(directory).iterdir()):
            for path in CONF.glob("*.yaml"):
                (Path(directory) / path.name).write_bytes(path.read_bytes())
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
