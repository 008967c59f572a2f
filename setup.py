"""The two optional accelerators: the native codec (native/, by cargo) and the compiled sessions (by mypyc).

Rules: an install never fails for want of them. Without cargo, a C compiler, mypy or what these need, the package is
installed with what could be built, the wheel is tagged for what is in it (the codec alone is abi3, compiled sessions
belong to one CPython, without both it is pure Python), and one line says so (pip shows it with `-v`; `edgeproxy
version` tells what is in use). `EDGEPROXY_BUILD_NATIVE=0` asks for neither, `=1` makes a failure an error. Which
modules are compiled stands in pyproject.toml, `[tool.edgeproxy]`, as does everything that is not about these two.
"""
from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

PACKAGE = "edgeproxy"
MANIFEST = Path("native", "Cargo.toml")
WISH = os.environ.get("EDGEPROXY_BUILD_NATIVE", "auto")
CODEC, SESSIONS = "the native codec", "compiled sessions"
GROUP = f"{PACKAGE}.compiled"  # the library of all compiled modules is edgeproxy/compiled__mypyc

RESULTS: dict[str, str] = {}
"""What became of each: "" or why it is missing."""


# ---- what can be tried

def no_codec() -> str:
    """Why the native codec cannot even be tried; "" if it can."""
    if not MANIFEST.exists():
        return f"no {MANIFEST}"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "no stable ABI in this Python"
    if shutil.which(os.environ.get("CARGO", "cargo")) is None:
        return "no cargo"
    try:
        import setuptools_rust  # noqa: F401
    except ImportError:
        return "no setuptools-rust"
    return ""


def no_sessions() -> str:
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "not for a Python without its lock"
    if os.name == "posix" and shutil.which(compiler) is None:
        return f"no C compiler ({compiler})"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "no Python.h"
    try:
        import mypyc.build  # noqa: F401
    except ImportError:
        return "no mypy"
    return ""


def obstacle(look: Callable[[], str]) -> str:
    if WISH == "0":
        return "EDGEPROXY_BUILD_NATIVE=0"
    return look() if sys.implementation.name == "cpython" else "not CPython"


# ---- what is told

def conclude(part: str, reason: str) -> None:
    """`reason` why the part is missing, or "". Tells the result when both parts are known."""
    RESULTS[part] = reason
    if WISH == "1" and reason:
        raise SystemExit(f"edgeproxy: {part} {'were' if part == SESSIONS else 'was'} demanded and could not be built: "
                         f"{reason}")
    if len(RESULTS) < 2:
        return
    there = [name for name, why in RESULTS.items() if not why]
    line = f"built with {' and '.join(there)}" if there else "built"
    for count, (name, why) in enumerate((name, why) for name, why in RESULTS.items() if why):
        line += f"{', ' if count or there else ' '}without {name} ({why})"
    print(f"edgeproxy: {line}{'' if len(there) == 2 else ': Python does it, with more CPU per request'}",
          file=sys.stderr)


def conclude_obstacles() -> None:
    for part, reason in OBSTACLES.items():
        if reason:
            conclude(part, reason)


# ---- building

def libraries(root: Path, pattern: str = "*") -> list[Path]:
    return [path for path in root.glob(f"{PACKAGE}/**/{pattern}") if path.suffix in (".so", ".pyd")]


def drop_built(root: Path) -> None:
    """A library of an earlier build must not pass for this one's."""
    for path in libraries(root):
        path.unlink()


class PurePython(build_py):
    """When neither can be tried."""

    def run(self) -> None:
        conclude_obstacles()
        drop_built(Path(self.build_lib))
        if self.editable_mode:
            drop_built(Path())
        super().run()


class BuildSessions(build_ext):
    """Compiles the sessions; setuptools-rust puts its own build behind this one."""

    done = False

    def run(self) -> None:
        if self.done:  # `install` inside `bdist_wheel` asks again
            return
        self.done = True
        root = Path() if self.inplace else Path(self.build_lib)
        drop_built(root)
        conclude_obstacles()
        if not OBSTACLES[SESSIONS]:
            conclude(SESSIONS, self.compile(root))

    def compile(self, root: Path) -> str:
        """Why it failed, or ""."""
        try:
            self.attempt()
        except (Exception, SystemExit) as error:  # mypyc ends the program where others raise
            for path in libraries(root):
                path.unlink()
            return f"mypyc failed, see above: {type(error).__name__} {error}".strip()
        for path in libraries(root):
            path.touch()  # an unchanged one is copied with its old time, and would be older than its source
        return ""

    def attempt(self) -> None:
        from mypyc.build import mypycify

        with open("pyproject.toml", "rb") as file:
            modules = tomllib.load(file)["tool"]["edgeproxy"]["compiled"]
        options = ["--config-file=", "--ignore-missing-imports", "--no-error-summary"]
        extensions = mypycify([*options, *modules], opt_level="3", debug_level="0", group_name=GROUP,
                              target_dir=str(Path(self.build_temp, "mypyc")))
        for extension in extensions:  # a warning of a newer compiler is no reason to go without
            extension.extra_compile_args = [a for a in extension.extra_compile_args if a != "-Werror"]
        self.distribution.ext_modules = extensions
        inner = build_ext(self.distribution)
        inner.inplace, inner.build_lib, inner.build_temp = self.inplace, self.build_lib, self.build_temp
        inner.ensure_finalized()
        inner.run()
        self.distribution.ext_modules = None


class Wheel(bdist_wheel):
    def run(self) -> None:
        self.run_command("build")
        self.root_is_pure = all(RESULTS.values())
        if self.root_is_pure:
            self.plat_name_supplied = False
            self.distribution.has_ext_modules = lambda: False  # setuptools-rust says otherwise
        self.py_limited_api = "cp311" if RESULTS[SESSIONS] and not RESULTS[CODEC] else False
        super().run()


def with_codec() -> dict[str, Any]:
    """What the setup needs for the codec: an extension that may fail."""
    from setuptools_rust import RustExtension, build_rust

    class BuildCodec(build_rust):
        done = False

        def run(self) -> None:
            if self.done:
                return
            self.done = True
            root = Path() if self.inplace else Path(self.get_finalized_command("build_ext").build_lib)
            super().run()
            conclude(CODEC, "" if libraries(root, "_native.*") else "cargo failed, see above")

    locked = ["--locked"] if MANIFEST.with_name("Cargo.lock").exists() else []
    extension = RustExtension("edgeproxy.codec._native", str(MANIFEST), debug=False, optional=WISH != "1",
                              cargo_manifest_args=locked)
    return {"rust_extensions": [extension], "cmdclass": {"build_rust": BuildCodec}}


class Edgeproxy(Distribution):
    def has_ext_modules(self) -> bool:
        """Before the build: something will be tried. After it: something was built."""
        return not all((RESULTS if len(RESULTS) == 2 else OBSTACLES).values())


OBSTACLES = {CODEC: obstacle(no_codec), SESSIONS: obstacle(no_sessions)}
words: dict[str, Any] = {"cmdclass": {}} if OBSTACLES[CODEC] else with_codec()
words["cmdclass"] |= {"build_py": PurePython} if all(OBSTACLES.values()) else {"build_ext": BuildSessions,
                                                                              "bdist_wheel": Wheel}
setup(**words, distclass=Edgeproxy, zip_safe=False)
