"""Reads the configuration: `load(paths)`, `load_text(text)`, and `read(paths)` for who also wants places and sources.

Rules: the only way from YAML to `Config`; everything wrong is in one `ConfigError`, sorted by place; no bytes lead to
any other exception. nodes.py reads YAML, shapes.py one value, rules.py looks at several; here they are put together.
"""
from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeproxy.config.credentials import read_named
from edgeproxy.config.model import Admin, Config, Listener, PathMatch, Resolver, Route, Service
from edgeproxy.config.nodes import Document, Node, compose
from edgeproxy.config.problem import ConfigError, Problem, Problems, quoted
from edgeproxy.config.rules import check
from edgeproxy.config.shapes import Entry, Reader
from edgeproxy.config.sources import Sources, decode, read_documents
from edgeproxy.config.tree import root

_GATHERED = ("listeners", "routes", "services")
"""Keys whose values are gathered from all files."""
_JUDGED: dict[str, type] = {"resolver": Resolver, "admin": Admin}
"""Other keys that rules.py looks into."""

__all__ = ["ConfigError", "Loaded", "Problem", "Sources", "load", "load_text", "read", "read_text"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration with where it came from."""

    config: Config
    sources: Sources
    places: Mapping[tuple[type, str], Entry]
    """Where a listener, route or service of this name stands; for warnings."""


def load(paths: Sequence[str | Path], env: Mapping[str, str] | None = None, now: float | None = None) -> Config:
    """The configuration in these files and directories. Raises ConfigError with all problems.

    `now` is unix seconds, for the dates of certificates; without it they are not judged.
    """
    return read(paths, env, now).config


def load_text(text: str, name: str = "<config>", env: Mapping[str, str] | None = None,
              now: float | None = None) -> Config:
    """The configuration in this text; relative paths stay relative. Raises ConfigError with all problems."""
    return read_text(text, name, env, now).config


def read(paths: Sequence[str | Path], env: Mapping[str, str] | None = None, now: float | None = None) -> Loaded:
    """As `load`, with sources and places."""
    problems = Problems()
    with _without_collector():
        documents, sources = read_documents(paths, problems)
        return _assemble(documents, sources, problems, env, now)


def read_text(text: str, name: str = "<config>", env: Mapping[str, str] | None = None,
              now: float | None = None) -> Loaded:
    """As `load_text`, with places."""
    problems = Problems()
    with _without_collector():
        document = decode(text.encode("utf-8", "surrogatepass"), name, problems, 0)
        if document is not None:
            document.folder = ""
        return _assemble([document] if document else [], Sources(), problems, env, now)


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


def _assemble(documents: list[Document], sources: Sources, problems: Problems, env: Mapping[str, str] | None,
              now: float | None) -> Loaded:
    whole = _Whole(unread=set(_GATHERED) if problems.found else set())
    names = _RouteNames()
    for document in documents:
        node = compose(document)
        if node is not None and (node.id != "scalar" or node.value):
            _merge(Reader(document, os.environ if env is None else env, whole.entries, names), node, whole)
        elif document.faulty:
            whole.unread.update(_GATHERED)
    _check_presence(documents, whole, problems)
    check(whole.entries, problems, whole.unread)
    certificates = read_named(whole.entries, now)
    if problems.found:
        raise ConfigError(problems.sorted())
    listeners, routes, services = (whole.entries[kind] for kind in (Listener, Route, Service))
    config = Config(listeners={entry.name: entry.value for entry in listeners},
                    routes=tuple(entry.value for entry in routes),
                    services={entry.name: entry.value for entry in services},
                    certificates=certificates, **whole.values)
    places = {(kind, entry.name): entry for kind, found in whole.entries.items() for entry in found}
    return Loaded(config, sources, places)


@dataclass(slots=True)
class _Whole:
    """What all documents give together."""

    unread: set[str]
    """Keys of which something could not be read."""
    entries: dict[type, list[Entry]] = field(default_factory=lambda: {Listener: [], Route: [], Service: []})
    values: dict[str, Any] = field(default_factory=dict)
    """The keys that are not gathered."""
    seen: dict[str, tuple[Document, Node]] = field(default_factory=dict)
    """Where a key of the root was met first."""
    first: tuple[Document, Node] | None = None
    """The first root that is a map."""


def _merge(reader: Reader, node: Node, whole: _Whole) -> None:
    """Reads one root. Listeners, routes and services of all documents go together; other keys are there once."""
    bad: set[str] = set()
    found = root().values(reader, node, bad, complete=False)
    whole.unread.update(_GATHERED if found is None else bad)
    if found is None:
        return
    whole.first = whole.first or (reader.document, node)
    whole.values.update((key, value) for key, value in found.items() if key not in _GATHERED)
    for key_node, value_node in node.value:
        key = str(key_node.value)
        document, first = whole.seen.setdefault(key, (reader.document, key_node))
        if document is not reader.document and key not in _GATHERED:
            reader.document.refuse(key_node, f"{quoted(key)} is given twice, first in {document.where(first)}")
        elif key in _JUDGED and key in found:
            entry = Entry(key, found[key], reader.document, key_node, value_node)
            whole.entries.setdefault(_JUDGED[key], []).append(entry)


def _check_presence(documents: Sequence[Document], whole: _Whole, problems: Problems) -> None:
    """A configuration without listeners does nothing."""
    if whole.first is None:
        if documents and not problems.found:
            documents[0].whole("this file is empty; the smallest useful one has listeners, routes and services")
        return
    document, node = whole.first
    if "listeners" not in whole.seen and "listeners" not in whole.unread:
        document.refuse(node, '"listeners" is missing: nothing would be listened on')
    elif not problems.found and not whole.entries[Listener]:
        document, node = whole.seen["listeners"]
        document.refuse(node, "there is no listener: nothing would be listened on")


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
