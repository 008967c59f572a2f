"""The optional native codec: `edgeproxy.codec._native`, built by cargo from native/, abi3 for CPython >= 3.11.

Rules: an install never fails for want of it. Without cargo, without crates, or when the compiler fails, the package is
installed with the pure twin (`edgeproxy/codec/_pure.py`), the wheel is tagged as pure Python, and one line says so
(pip shows it with `-v`; `edgeproxy version` tells which engine is in use). Everything else is in pyproject.toml.
`EDGEPROXY_BUILD_NATIVE=0` asks for the pure twin, `=1` makes a failing native build an error.
"""
from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

MANIFEST = Path("native", "Cargo.toml")
PACKAGE = Path("edgeproxy", "codec")
WISH = os.environ.get("EDGEPROXY_BUILD_NATIVE", "auto")


def obstacle() -> str:
    """Why the native codec cannot even be tried; "" if it can."""
    if WISH == "0":
        return "EDGEPROXY_BUILD_NATIVE=0"
    if not MANIFEST.exists():
        return f"no {MANIFEST}"
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "no stable ABI in this Python"
    if shutil.which(os.environ.get("CARGO", "cargo")) is None:
        return "no cargo"
    try:
        import setuptools_rust  # noqa: F401
    except ImportError:
        return "no setuptools-rust"
    return ""


def say(reason: str) -> None:
    if not reason:
        print("edgeproxy: built with the native codec", file=sys.stderr)
        return
    if WISH == "1":
        raise SystemExit(f"edgeproxy: the native codec was demanded and could not be built: {reason}")
    print(f"edgeproxy: built without the native codec ({reason}): the pure-Python codec serves, more CPU per request",
          file=sys.stderr)


def libraries(root: Path) -> list[Path]:
    return [path for path in (root / PACKAGE).glob("_native.*") if path.suffix in (".so", ".pyd")]


def drop_built(root: Path) -> None:
    """A library of an earlier build must not pass for this one's."""
    for path in libraries(root):
        path.unlink()


def pure() -> dict[str, Any]:
    """The setup without the extension."""

    class PurePython(build_py):
        def run(self) -> None:
            say(OBSTACLE)
            drop_built(Path(self.build_lib))
            if self.editable_mode:
                drop_built(Path())
            super().run()

    return {"cmdclass": {"build_py": PurePython}}


def native() -> dict[str, Any]:
    """The setup with the extension, which turns pure again if the build fails."""
    from setuptools_rust import RustExtension, build_rust

    class BuildNative(build_rust):
        done = False

        def run(self) -> None:
            if self.done:  # `install` inside `bdist_wheel` asks again
                return
            self.done = True
            root = Path() if self.inplace else Path(self.get_finalized_command("build_ext").build_lib)
            drop_built(root)
            super().run()
            built = bool(libraries(root))
            say("" if built else "cargo failed, see above")
            self.distribution.has_ext_modules = lambda: built

    class Wheel(bdist_wheel):
        def run(self) -> None:
            self.run_command("build")
            if not self.distribution.has_ext_modules():
                self.root_is_pure = True
                self.plat_name_supplied = False
                self.py_limited_api = False
            super().run()

    locked = ["--locked"] if MANIFEST.with_name("Cargo.lock").exists() else []
    extension = RustExtension("edgeproxy.codec._native", str(MANIFEST), debug=False, optional=WISH != "1",
                              cargo_manifest_args=locked)
    return {"rust_extensions": [extension], "cmdclass": {"build_rust": BuildNative, "bdist_wheel": Wheel},
            "options": {"bdist_wheel": {"py_limited_api": "cp311"}}, "zip_safe": False}


OBSTACLE = obstacle()
setup(**(pure() if OBSTACLE else native()))
