"""`make conformance`: edgeproxy against what others have written down: h2spec (HTTP/2) and testssl.sh (TLS).

Started from the tree as a program; it starts edgeproxy and a backend itself, prints each failure with what the tool said,
and ends with a line that counts. Exit status 1 if something failed. A tool that is missing is named, and is a failure
only with CONFORMANCE=all: a registry that is out of reach says nothing about the proxy.
"""
from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conformance import http2, tls  # noqa: E402
from conformance.result import Result, Site  # noqa: E402

PARTS = {"http2": http2.run, "tls": tls.run}


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/conformance/run.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="http2, tls (default: both)")
    parser.add_argument("--tools", type=Path, default=ROOT / "build" / "tools", help="where h2spec was built")
    options = parser.parse_args()
    os.environ["PATH"] = f"{options.tools}{os.pathsep}{os.environ.get('PATH', '')}"
    wanted = options.parts or list(PARTS)
    result = Result()
    folder = Path(tempfile.mkdtemp(prefix="edgeproxy-conformance-"))
    try:
        with Site(folder) as site:
            for part in wanted:
                PARTS[part](site, result)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name in result.missing:
        print(f"conformance: {name} is missing, its cases were NOT run")
    print(f"conformance: {result.passed} passed, {result.failed} failed")
    return 1 if result.failed or (result.missing and os.environ.get("CONFORMANCE") == "all") else 0


if __name__ == "__main__":
    raise SystemExit(main())
