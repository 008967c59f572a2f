"""The house rules that a machine can check: who may import whom, what pure layers may touch, names, sizes.

The picture behind them is in docs/internals.md; whoever moves a boundary changes both. `faults()` is the checker;
the last tests feed it small bad samples, so that it cannot go blind unnoticed.
"""
from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "edgeproxy"

# Lowest first. A module imports from lower rows and from its own part, never sideways and never upwards.
ROWS: tuple[tuple[str, ...], ...] = (
    ("errors", "compiler"),
    ("codec", "policy", "config"),
    ("route",),
    ("router",),
    ("net",),
    ("upstream",),
    ("snapshot",),
    ("session",),
    ("runtime",),
    ("adminclient", "arguments", "handshakes", "selfsigned", "statustext", "versions"),
    ("explaintext",),
    ("demo", "explain", "oneline"),
    ("cli",),
    ("__main__",),
)
RANK = {part: rank for rank, row in enumerate(ROWS) for part in row}
# The one sideways step: values of the configuration (dataclasses, no behaviour) are the arguments of decisions.
SIDEWAYS = {("policy", "config.model")}

LOOP = {"asyncio", "uvloop", "selectors", "select", "threading", "concurrent", "multiprocessing", "subprocess"}
WIRE = {"socket", "socketserver", "ssl", "http", "urllib"}
CLOCK = {"time", "datetime", "sched"}
CHANCE = {"random", "secrets", "uuid"}
LOGS = {"logging", "syslog"}
FILES = {"io", "pathlib", "tempfile", "shutil", "fileinput"}
PURE = LOOP | WIRE | CLOCK | CHANCE | LOGS
# Below net/ there is no clock, no chance, no I/O and no log. The configuration alone reads files.
FORBIDDEN: dict[str, set[str]] = {"errors": PURE | FILES, "codec": PURE | FILES, "policy": PURE | FILES,
                                  "route": PURE | FILES, "router": PURE | FILES, "config": PURE}
READS_FILES = {"config"}
# What is harmless in them: the type of a generator of random numbers, which may be an argument; pure functions.
HARMLESS = ("random.Random", "urllib.parse")

BANNED_WORDS = {"manager", "handler", "helper", "util", "common", "context", "info"}
MODULE_LINES = 500
FUNCTION_LINES = 60


def parts(name: str) -> list[str]:
    """The words of a name, in lower case and singular: `ConnectionManager` -> connection, manager."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return [word.lower().removesuffix("s") for word in words]


def imports(tree: ast.Module, module: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that is imported, wherever it stands; relative names resolved."""
    package = module.split(".") if module.endswith("__init__") else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) + 1 - node.level] if node.level else []
            origin = ".".join(base + ([node.module] if node.module else []))
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def type_only(tree: ast.Module) -> set[int]:
    """Lines inside `if TYPE_CHECKING:`; such an import still ties parts together, but touches no clock and no die."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for inner in node.body:
                lines.update(range(inner.lineno, (inner.end_lineno or inner.lineno) + 1))
    return lines


def import_fault(part: str, name: str, typing: bool) -> str:
    """What is wrong with `part` importing `name`; "" if nothing."""
    words = name.split(".")
    if words[0] != PACKAGE:
        allowed = typing or words[0] not in FORBIDDEN.get(part, set()) or name.startswith(HARMLESS)
        return "" if allowed else f"{part} must not touch {words[0]}"
    target = words[1] if len(words) > 1 else ""
    if target == part or target not in RANK:
        known = target == part or target in ("", "__version__", "sessions")
        return "" if known else f"{PACKAGE}.{target} is in no row of this test: say where it belongs"
    if RANK[target] < RANK.get(part, 0) or any(part == a and ".".join(words[1:]).startswith(b) for a, b in SIDEWAYS):
        return ""
    return f"{part} must not import {target}: imports go strictly downwards"


def named_faults(tree: ast.Module, module: str) -> Iterator[tuple[int, str]]:
    names = [(1, word) for word in module.split(".")]
    names += [(node.lineno, node.name) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for line, name in names:
        for word in BANNED_WORDS.intersection(parts(name)):
            yield line, f"{name}: nothing is called {word}"


def size_faults(tree: ast.Module, source: str) -> Iterator[tuple[int, str]]:
    if (lines := len(source.splitlines())) > MODULE_LINES:
        yield 1, f"{lines} lines, at most {MODULE_LINES}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {lines} lines, at most {FUNCTION_LINES}"


def faults(module: str, source: str) -> list[str]:
    """What a module (dotted name within the package, `codec.h1`) does against the rules, as `line: fault`."""
    tree = ast.parse(source)
    part = module.split(".")[0]
    found: list[tuple[int, str]] = []
    typing = type_only(tree)
    if part not in RANK and part != "__init__":
        found.append((1, f"{part} is in no row of this test: say where it belongs"))
    else:
        for line, name in imports(tree, f"{PACKAGE}.{module}"):
            if fault := import_fault(part, name, line in typing):
                found.append((line, fault))
    if part in FORBIDDEN:
        closed = {"print", "input"} | (set() if part in READS_FILES else {"open"})
        found += [(node.lineno, f"{part} must not call {node.func.id}()") for node in ast.walk(tree)
                  if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in closed]
    if not ast.get_docstring(tree) and source.strip():
        found.append((1, "no docstring that says what lives here"))
    found += [*named_faults(tree, module), *size_faults(tree, source)]
    return [f"{line}: {fault}" for line, fault in sorted(set(found))]


MODULES = sorted((ROOT / PACKAGE).rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_keeps_the_rules(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT / PACKAGE).with_suffix("").parts)
    assert faults(module, path.read_text(encoding="utf-8")) == []


def test_every_row_of_the_picture_exists() -> None:
    there = {path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert set(RANK) <= there


BAD = [
    ("codec.h1", "import asyncio", "codec must not touch asyncio"),
    ("codec.h1", "import os, socket", "codec must not touch socket"),
    ("codec.h1", "from time import monotonic", "codec must not touch time"),
    ("codec.h1", "def f():\n    import logging", "codec must not touch logging"),
    ("codec.h1", "from edgeproxy.policy import picker", "codec must not import policy"),
    ("codec.h1", "from ..session import http1", "codec must not import session"),
    ("codec.h1", "from .. import session", "codec must not import session"),
    ("codec.h1", "import importlib\nimportlib.import_module('edgeproxy.net.deadline')", "codec must not import net"),
    ("policy.picker", "import random", "policy must not touch random"),
    ("policy.picker", "from random import choice", "policy must not touch random"),
    ("policy.picker", "from edgeproxy.codec.h1 import H1Codec", "policy must not import codec"),
    ("policy.picker", "from edgeproxy.config.load import load", "policy must not import config"),
    ("policy.retry", "def f():\n    return open('x')", "policy must not call open()"),
    ("router", "import datetime", "router must not touch datetime"),
    ("router", "from edgeproxy.snapshot import Snapshot", "router must not import snapshot"),
    ("config.load", "import logging", "config must not touch logging"),
    ("config.load", "print('x')", "config must not call print()"),
    ("net.sockets", "from edgeproxy.upstream import pool", "net must not import upstream"),
    ("upstream.pool", "import typing\nif typing.TYPE_CHECKING:\n    from edgeproxy.session.http1 import Http1",
     "upstream must not import session"),
    ("session.http1", "from edgeproxy.runtime.accesslog import AccessLog", "session must not import runtime"),
    ("runtime.proxy", "import edgeproxy.cli", "runtime must not import cli"),
    ("errors", "from edgeproxy.config import model", "errors must not import config"),
    ("session.tcp", "from edgeproxy.misc import x", "edgeproxy.misc is in no row"),
    ("misc", "x = 1", "misc is in no row"),
    ("net.utils", "x = 1", "utils: nothing is called util"),
    ("net.flow", "class FlowManager: ...", "FlowManager: nothing is called manager"),
    ("net.flow", "class HTTPContext: ...", "HTTPContext: nothing is called context"),
    ("net.flow", "x = 1\n" * 501, "501 lines, at most 500"),
    ("net.flow", "async def f():\n" + "    x = 1\n" * 60, "f has 61 lines, at most 60"),
]
GOOD = [
    ("codec._leaf", "import os\nfrom edgeproxy.codec import _pure"),
    ("codec.h1", "from . import _leaf\nfrom ..errors import Kind"),
    ("policy.picker", "from random import Random\nfrom edgeproxy.config import model"),
    ("policy.retry", "from edgeproxy.config.model import Retry\nfrom edgeproxy.policy import endpoint"),
    ("router", "from urllib.parse import unquote"),
    ("policy.picker", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import random"),
    ("config.load", "import yaml\nfrom pathlib import Path\nx = open('y')"),
    ("session.http1", "import asyncio\nfrom time import monotonic\nfrom edgeproxy import __version__"),
    ("cli", "from edgeproxy.runtime.proxy import Proxy\nfrom edgeproxy.errors import Kind"),
    ("net.flow", "class Information: ...\nclass Handle: ...\ndef f():\n" + "    x = 1\n" * 59),
    ("net.__init__", ""),
]


@pytest.mark.parametrize(("module", "source", "fault"), BAD)
def test_checker_sees(module: str, source: str, fault: str) -> None:
    found = faults(module, f'"""A sample."""\n{dedent(source)}' if len(source.splitlines()) < 500 else source)
    assert any(fault in line for line in found), found


@pytest.mark.parametrize(("module", "source"), GOOD)
def test_checker_lets_pass(module: str, source: str) -> None:
    assert faults(module, f'"""A sample."""\n{dedent(source)}') == []


def test_checker_wants_a_header() -> None:
    assert faults("net.flow", "x = 1") == ["1: no docstring that says what lives here"]
