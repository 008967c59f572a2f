"""edgeproxy: a standalone L4/L7 reverse proxy. Here: the version, and whether the compiled modules are used.

The modules that `[tool.edgeproxy]` in pyproject.toml lists may be there compiled beside their source; Python takes the
compiled ones by itself. `EDGEPROXY_PURE=1` takes the source, as it takes the Python twin of the native codec: for tests
and for finding out whether a fault is the compiler's.
"""
from __future__ import annotations

import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import spec_from_file_location

__version__ = "0.1.0"


class _Source:
    """An import finder that knows the package's modules by their source only."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        package, _, module = name.rpartition(".")
        if package.partition(".")[0] != "edgeproxy":
            return None
        file = os.path.join(os.path.dirname(__file__), *package.split(".")[1:], f"{module}.py")
        return spec_from_file_location(name, file) if os.path.isfile(file) else None


PURE = os.environ.get("EDGEPROXY_PURE", "") in ("1", "true", "yes")
if PURE:
    sys.meta_path.insert(0, _Source)


def sessions() -> str:
    """How the data path runs: `compiled` or `interpreted`. Imports nothing of it."""
    files = os.listdir(os.path.join(os.path.dirname(__file__), "session")) if not PURE else []
    return "compiled" if any(f"exchange{suffix}" in files for suffix in EXTENSION_SUFFIXES) else "interpreted"
