"""Reads the configuration: `load(paths)`, `load_text(text)`, and `read(paths)` for who also wants places and sources.

Rules: the only way from YAML to `Config`; everything wrong is in one `ConfigError`, sorted by place; no bytes lead to
any other exception. nodes.py reads YAML, shapes.py one value, rules.py looks at several; here they are put together.
"""
from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeproxy.config.model import Config, Listener, PathMatch, Route, Service
from edgeproxy.config.nodes import Document, Node, compose
from edgeproxy.config.problem import ConfigError, Problem, Problems, quoted
from edgeproxy.config.rules import check
from edgeproxy.config.shapes import Entry, MapOf, Reader
from edgeproxy.config.sources import Sources, decode, read_documents
from edgeproxy.config.tree import root

_GATHERED = ("listeners", "routes", "services")
"""Keys whose values are gathered from all files."""

__all__ = ["ConfigError", "Loaded", "Problem", "Sources", "load", "load_text", "read"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration with where it came from."""

    config: Config
    sources: Sources
    places: Mapping[tuple[type, str], Entry]
    """Where a listener, route or service of this name stands; for warnings."""


def load(paths: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Config:
    """The configuration in these files and directories. Raises ConfigError with all problems."""
    return read(paths, env).config


def load_text(text: str, name: str = "<config>", env: Mapping[str, str] | None = None) -> Config:
    """The configuration in this text; relative paths stay relative. Raises ConfigError with all problems."""
    return read_text(text, name, env).config


def read(paths: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Loaded:
    """As `load`, with sources and places."""
    problems = Problems()
    with _without_collector():
        documents, sources = read_documents(paths, problems)
        return _assemble(documents, sources, problems, env)


def read_text(text: str, name: str = "<config>", env: Mapping[str, str] | None = None) -> Loaded:
    """As `load_text`, with places."""
    problems = Problems()
    with _without_collector():
        document = decode(text.encode("utf-8", "surrogatepass"), name, problems, 0)
        if document is not None:
            document.folder = ""
        return _assemble([document] if document else [], Sources(), problems, env)


@contextmanager
def _without_collector() -> Iterator[None]:
    """A hundred thousand nodes make the collector run again and again for nothing: half of the time, measured."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _assemble(documents: list[Document], sources: Sources, problems: Problems, env: Mapping[str, str] | None) -> Loaded:
    shape = root()
    entries: dict[type, list[Entry]] = {Listener: [], Route: [], Service: []}
    unnamed = _RouteNames()
    values: dict[str, Any] = {}
    seen: dict[str, tuple[Document, Node]] = {}
    filled: list[tuple[Document, Node]] = []
    for document in documents:
        node = compose(document)
        if node is None or (node.id == "scalar" and not node.value):
            continue  # nothing in it, or a problem
        filled.append((document, node))
        reader = Reader(document, os.environ if env is None else env, entries, unnamed)
        _merge(reader, shape, node, values, seen)
    _check_presence(documents, filled, seen, entries, problems)
    check(entries, problems)
    if problems.found:
        raise ConfigError(problems.sorted())
    listeners, routes, services = (entries[kind] for kind in (Listener, Route, Service))
    config = Config(listeners={entry.name: entry.value for entry in listeners},
                    routes=tuple(entry.value for entry in routes),
                    services={entry.name: entry.value for entry in services},
                    **{key: value for key, value in values.items() if key not in _GATHERED})
    places = {(kind, entry.name): entry for kind, found in entries.items() for entry in found}
    return Loaded(config, sources, places)


def _check_presence(documents: Sequence[Document], filled: Sequence[tuple[Document, Node]],
                    seen: Mapping[str, tuple[Document, Node]], entries: Mapping[type, list[Entry]],
                    problems: Problems) -> None:
    if filled:
        document, node = filled[0]
        if "listeners" not in seen and node.id == "mapping" and len(filled) == len(documents):
            document.refuse(node, '"listeners" is missing: nothing would be listened on')
        elif not problems.found and not entries[Listener]:
            document, node = seen["listeners"]
            document.refuse(node, "there is no listener: nothing would be listened on")
    elif documents and not problems.found:
        documents[0].whole("this file is empty; the smallest useful one has listeners, routes and services")


def _merge(reader: Reader, shape: MapOf, node: Node, values: dict[str, Any],
           seen: dict[str, tuple[Document, Node]]) -> None:
    """Reads one root. Listeners, routes and services of all documents go together; other keys are there once."""
    bad: set[str] = set()
    found = shape.values(reader, node, bad, complete=False)
    if found is None:
        return
    values.update(found)
    for key in bad:
        seen.setdefault(key, (reader.document, node))
    for key_node, _ in node.value:
        key = str(key_node.value)
        if key in seen and seen[key][0] is not reader.document and key not in _GATHERED:
            document, first = seen[key]
            reader.document.refuse(key_node, f"{quoted(key)} is given twice, first in {document.where(first)}")
        if key in shape.parts:
            seen.setdefault(key, (reader.document, key_node))


class _RouteNames:
    """Names for routes without one: host and path, with a number where that is taken. They hold a `/` or `~`, which a
    given name cannot, so the two never meet."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def __call__(self, values: Mapping[str, Any]) -> str:
        path: PathMatch = values.get("path") or PathMatch()
        host = values.get("host") or ("*",)
        name = f"{host[0]}{'~' if path.kind == 'regex' else ''}{path.value}"
        count = self._taken[name] = self._taken.get(name, 0) + 1
        return name if count == 1 else self._numbered(name, count)

    def _numbered(self, name: str, count: int) -> str:
        while f"{name}#{count}" in self._taken:
            count += 1
        self._taken[f"{name}#{count}"] = 1
        self._taken[name] = count
        return f"{name}#{count}"
