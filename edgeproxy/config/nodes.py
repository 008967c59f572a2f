"""YAML text to located nodes: syntax, limits, and the words for what YAML itself refuses.

Rules: nothing is constructed and nothing is guessed: every scalar stays the text that was written (so `no`, `012`,
`1.10` and `22:22` are no traps), what it means is decided by `shapes.py`. Any text ends in a node or in one problem,
never in a traceback: depth is bounded while composing (libyaml's composer would overrun the stack), aliases after it.
"""
from __future__ import annotations

import re
from typing import Any, Protocol, cast

import yaml

from edgeproxy.config.problem import Problem, Problems, printable


class Mark(Protocol):
    """A place, line and column from 0."""

    line: int
    column: int


class Node(Protocol):
    """What is used of the YAML library's nodes."""

    id: str
    """scalar, sequence or mapping"""
    tag: str
    """Empty unless the file names one."""
    value: Any
    """Text; a list of nodes; a list of pairs of nodes."""
    style: str | None
    """None or empty: without quotes (the two parsers differ)."""
    start_mark: Mark


_DEPTH = 64
"""The deepest useful value has six levels."""
_EXPANDED = 1_000_000
"""Nodes counted once for each alias that leads to them; 10 000 routes have some 150 000."""
_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class _TooDeep(Exception):
    def __init__(self, mark: Mark | None) -> None:
        self.mark = mark


class _Loader(getattr(yaml, "CBaseLoader", yaml.BaseLoader)):  # type: ignore[misc]
    """Composes without resolving: the tag of a node is "" unless the file names one."""

    depth = 0

    def descend_resolver(self, parent: Node | None, index: object) -> None:
        self.depth += 1
        if self.depth > _DEPTH:
            raise _TooDeep(parent.start_mark if parent else None)

    def ascend_resolver(self) -> None:
        self.depth -= 1

    def resolve(self, kind: object, value: object, implicit: object) -> str:
        return ""


class Document:
    """One file's text: its lines for messages, its folder for relative paths, its place among the files."""

    __slots__ = ("name", "folder", "order", "text", "problems", "faulty", "_lines")

    def __init__(self, name: str, text: str, problems: Problems, order: int = 0, folder: str = "") -> None:
        self.name = name
        self.text = text.removeprefix("\ufeff")
        self.problems = problems
        self.order = order
        self.folder = folder
        self.faulty = False
        """A problem was added."""
        self._lines: list[str] | None = None

    def line(self, number: int) -> str:
        """The source line, counted from 0 as YAML counts lines."""
        if self._lines is None:
            self._lines = _BREAK.split(self.text)
        return self._lines[number] if 0 <= number < len(self._lines) else ""

    def last_line(self) -> int:
        """The last line with something in it."""
        return len(_BREAK.findall(self.text.rstrip()))

    def refuse(self, node: Node, message: str) -> None:
        self.problem(node.start_mark.line, node.start_mark.column, message)

    def problem(self, line: int, column: int, message: str) -> None:
        """Line and column from 0."""
        self.faulty = True
        self.problems.add(self.order, self.at(line, column, message))

    def at(self, line: int, column: int, message: str, level: str = "error") -> Problem:
        return Problem(self.name, line + 1, column + 1, message, self.line(line), level)

    def whole(self, message: str) -> None:
        """A problem of the file as such."""
        self.faulty = True
        self.problems.add(self.order, Problem(self.name, 0, 0, message))

    def where(self, node: Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of a character, from 0."""
        before = _BREAK.split(self.text[:offset])
        return len(before) - 1, len(before[-1])


def compose(document: Document) -> Node | None:
    """The root node; None if there is nothing in the document, or a problem was added."""
    bad = _UNPRINTABLE.search(document.text)
    if bad:
        _refuse_control(document, bad)
        return None
    try:
        root = cast("Node | None", yaml.compose(document.text, _Loader))
    except _TooDeep as error:
        mark = error.mark
        document.problem(mark.line if mark else 0, mark.column if mark else 0,
                         "nested too deeply; is a bracket open that should be closed?")
        return None
    except yaml.MarkedYAMLError as error:
        _refuse_syntax(document, error)
        return None
    except Exception as error:  # any other fault of the YAML library is a fault of the text, never a traceback
        document.whole(f"this is not valid YAML: {printable((str(error).splitlines() or [type(error).__name__])[0])}")
        return None
    if root is not None and "&" in document.text and "*" in document.text and not _bounded(document, root):
        return None
    return root


def _refuse_control(document: Document, bad: re.Match[str]) -> None:
    line, column = document.position(bad.start())
    if len(_UNPRINTABLE.findall(document.text[:4096])) > 8:
        document.whole("this looks like a binary file; a YAML text is expected")
    else:
        document.problem(line, column, f"a control character (U+{ord(bad.group()):04X}) that does not belong in a text")


def _bounded(document: Document, root: Node) -> bool:
    """Counts nodes as often as aliases lead to them, without walking them that often. Iterative: children first."""
    size: dict[int, int] = {}
    open_nodes: set[int] = set()
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, done = stack.pop()
        key = id(node)
        if done:
            open_nodes.discard(key)
            size[key] = 1 + sum(size[id(child)] for child in _children(node))
            if size[key] > _EXPANDED:
                document.refuse(node, f"aliases make this more than {_EXPANDED} values; use fewer of them")
                return False
        elif key in open_nodes:
            document.refuse(node, "this value contains itself through an alias")
            return False
        elif key not in size:
            open_nodes.add(key)
            stack.append((node, True))
            stack.extend((child, False) for child in _children(node))
    return True


def _children(node: Node) -> list[Node]:
    if node.id == "mapping":
        return [part for pair in node.value for part in pair]
    return list(node.value) if node.id == "sequence" else []


# What libyaml says (and its twin in Python says differently) -> what a person can act on. First match wins.
_WORDS: tuple[tuple[str, str], ...] = (
    ("alphabetic or numeric character", 'a value that begins with * or & must be quoted, such as "*.example.com"'),
    ("mapping values are not allowed",
     'a ":" where none can be: is the line indented wrongly, or does a value with ": " in it need quotes?'),
    ("undefined alias", "this alias has no anchor before it; a value that begins with * must be quoted"),
    ("duplicate anchor", "an anchor of this name exists already"),
    ("another document", 'a second document begins here; one file is one document, remove the "---"'),
    ("unexpected end of stream", "this quote is never closed"),
    ("unexpected document separator", "this quote is never closed"),
    ("unknown escape character", 'unknown escape after "\\"; in single quotes the backslash is an ordinary character'),
    ("invalid Unicode character escape", "this escape is no character"),
    ("tab character", "a tab; YAML is indented with spaces"),
    ("could not find expected ':'", 'expected ":" after this key'),
    ("',' or ']'", 'expected "," or "]": is a list not closed, or is a quote missing?'),
    ("',' or '}'", 'expected "," or "}": is a map not closed, or is a quote missing?'),
    ("expected key", "expected a key here: is the line indented wrongly, or a quote missing?"),
    ("<block end>", "expected a key here: is the line indented wrongly, or a quote missing?"),
    ("'-' indicator", 'expected "-" here: is the line indented wrongly?'),
    ("sequence entries are not allowed", 'a list item cannot begin here: put "- " on a line of its own'),
    ("node content", "expected a value here"),
)
_AT_OPENING = ("unexpected end of stream", "unexpected document separator", "alphabetic or numeric character")
"""Problems that are shown where the thing began."""


def _refuse_syntax(document: Document, error: yaml.MarkedYAMLError) -> None:
    said = str(error.problem or error.context or "")
    mark = error.problem_mark or error.context_mark
    if error.context_mark and (any(part in said for part in _AT_OPENING)):
        mark = error.context_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    last = document.last_line()
    if line > last and error.context_mark and error.context_mark.line <= last:
        line, column = error.context_mark.line, error.context_mark.column  # where something was left open
    elif line > last:
        line, column = last, len(document.line(last).rstrip())
    words = _in_words(document.line(line), column, said)
    if "not closed" in words and error.context_mark and error.context_mark.line < line:
        words += f" It begins in line {error.context_mark.line + 1}."
    document.problem(line, column, words)


def _in_words(source: str, column: int, said: str) -> str:
    char = source[column:column + 1]
    if "cannot start any token" in said:
        if char == "\t":
            return "a tab; YAML is indented with spaces"
        return f'a value that begins with {char or "this"} must be quoted'
    if char == "{" and source[column - 1:column] == "$":
        return 'within { } and [ ] a variable must be quoted: "${NAME}"'
    for part, words in _WORDS:
        if part in said:
            return words
    return f"this is not valid YAML: {printable(said)}"
