"""Versions and engines in use: what `edgeproxy version` prints and a bug report needs."""
from __future__ import annotations

import os
import platform
import ssl
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from edgeproxy import __version__, sessions
from edgeproxy.codec._leaf import ENGINE


def facts() -> dict[str, str]:
    """For scripts."""
    loop, loop_version = event_loop()
    return {"version": __version__, "python": platform.python_version(),
            "implementation": platform.python_implementation(), "loop": loop, "loop_version": loop_version,
            "codec": ENGINE, "http2": http2_engine(), "sessions": sessions(), "openssl": ssl.OPENSSL_VERSION}


def lines() -> Iterator[str]:
    """For people."""
    told = facts()
    slow = "" if ENGINE == "native" else " (Python; the native one costs less CPU)"
    yield f"edgeproxy {__version__}"
    yield f"python    {told['python']} ({told['implementation']})"
    yield f"loop      {told['loop']} {told['loop_version']}"
    yield f"codec     {ENGINE}{slow}"
    yield f"http2     {told['http2']}"
    yield f"sessions  {told['sessions']}"
    yield f"openssl   {ssl.OPENSSL_VERSION}"


def http2_engine() -> str:
    """Name and version of the library that reads and writes HTTP/2."""
    try:
        engine = str(import_module("edgeproxy.codec.h2").ENGINE)
    except ImportError:
        return "none (install ngh2 or h2)"
    try:
        return f"{engine} {version(engine)}"
    except PackageNotFoundError:
        return engine


def event_loop() -> tuple[str, str]:
    """Name and version of the loop that a run would use (see `runtime.proxy.run`)."""
    if os.environ.get("EDGEPROXY_LOOP", "uvloop") == "uvloop":
        try:
            import uvloop

            return "uvloop", str(uvloop.__version__)  # type: ignore[attr-defined]  # it is there, just not exported
        except ImportError:
            pass
    return "asyncio", ".".join(map(str, sys.version_info[:3]))
