"""What is installed: one version, every part, types, no tests; and that the native codec is never needed to install.

The builds run in a copy of the tree, without isolation (the build tools are dev dependencies) and without a network.
"""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

import edgeproxy

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "target", "*.egg-info", "__pycache__", "tests", "bench")
C_COMPILERS = ("cc", "gcc", "clang", "x86_64-linux-gnu-gcc", "aarch64-linux-gnu-gcc")
NO_TOOL = "#!/bin/sh\necho 'this tool is broken' >&2\nexit 1\n"


def test_one_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert metadata.version("edgeproxy") == edgeproxy.__version__
    assert f"[{edgeproxy.__version__}]" in changelog


def test_native_crate_has_the_same_version() -> None:
    crate = tomllib.loads((ROOT / "native" / "Cargo.toml").read_text(encoding="utf-8"))
    assert crate["package"]["version"] == edgeproxy.__version__


def test_every_folder_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "edgeproxy").rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_no_dependency_without_a_reason() -> None:
    """Each run-time dependency has its line in docs/internals.md."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    internals = (ROOT / "docs" / "internals.md").read_text(encoding="utf-8").partition("## Dependencies")[2]
    names = [re.split(r"[<>=;\[ ]", line)[0] for line in project["dependencies"]]
    assert [name for name in names if f"`{name}`" not in internals] == []


Build = Callable[..., tuple[Path, str]]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def run(**environ: str) -> tuple[Path, str]:
        tree = tmp_path / "tree"
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        for library in (tree / "edgeproxy").rglob("*.so"):
            library.unlink()
        listed = re.compile(r"^compiled = \[.*?^\]", re.M | re.S)  # compiling one shows as much as compiling all
        project = tree / "pyproject.toml"
        project.write_text(listed.sub('compiled = ["edgeproxy/session/pace.py"]', project.read_text()))
        pip = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-index", "--no-build-isolation"]
        done = subprocess.run([*pip, "-w", tmp_path, "."], cwd=tree, text=True, timeout=100, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env={**os.environ, "EDGEPROXY_BUILD_NATIVE": "auto", **environ})
        assert done.returncode == 0, done.stdout
        said = [line.strip() for line in done.stdout.splitlines() if line.strip().startswith("edgeproxy: ")]
        assert len(said) == 1, done.stdout
        [wheel] = tmp_path.glob("*.whl")
        return wheel, said[0]

    return run


def broken(folder: Path, *tools: str) -> str:
    """A folder of tools that fail, as a PATH."""
    folder.mkdir()
    for tool in tools:
        (folder / tool).write_text(NO_TOOL)
        (folder / tool).chmod(0o755)
    return str(folder)


def test_wheel_without_compilers_is_pure(build: Build, tmp_path: Path) -> None:
    wheel, said = build(PATH=broken(tmp_path / "bin"))
    assert wheel.name == f"edgeproxy-{edgeproxy.__version__}-py3-none-any.whl"
    assert "without the native codec (no cargo), without compiled sessions (no C compiler" in said
    names = zipfile.ZipFile(wheel).namelist()
    assert {"edgeproxy/py.typed", "edgeproxy/cli.py", "edgeproxy/codec/_pure.py"} <= set(names)
    assert {name.split("/")[0] for name in names} == {"edgeproxy", f"edgeproxy-{edgeproxy.__version__}.dist-info"}
    assert [name for name in names if name.endswith((".so", ".rs", ".pyc"))] == []


def test_broken_compiler_gives_the_pure_wheel(build: Build, tmp_path: Path) -> None:
    tools = broken(tmp_path / "bin", "cargo", "rustc", *C_COMPILERS)
    wheel, said = build(PATH=tools + os.pathsep + os.environ["PATH"])
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "without the native codec (cargo failed" in said
    assert "without compiled sessions (mypyc failed" in said


@pytest.mark.skipif(shutil.which("cargo") is None, reason="no cargo on this machine")
def test_no_crates_gives_the_pure_wheel(build: Build, tmp_path: Path) -> None:
    wheel, said = build(CARGO_HOME=str(tmp_path), CARGO_NET_OFFLINE="true", CC="/no/compiler")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "without the native codec (cargo failed" in said


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on this machine")
def test_compiled_sessions_without_cargo(build: Build, tmp_path: Path) -> None:
    """A wheel for this CPython alone, sources included."""
    wheel, said = build(CARGO="/no/cargo")
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert f"-{python}-{python}-" in wheel.name and "linux" in wheel.name
    assert "built with compiled sessions, without the native codec (no cargo)" in said
    names = zipfile.ZipFile(wheel).namelist()
    assert "edgeproxy/session/pace.py" in names
    libraries = [name.split(".")[0] for name in names if name.endswith(".so")]
    assert sorted(libraries) == ["edgeproxy/compiled__mypyc", "edgeproxy/session/pace"]


def test_what_is_compiled_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert [name for name in project["tool"]["edgeproxy"]["compiled"] if not (ROOT / name).is_file()] == []
