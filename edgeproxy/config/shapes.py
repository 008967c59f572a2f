"""From located nodes to values, and the JSON Schema of the same: one tree of shapes for both.

`read` turns a node into a value, or adds a problem and gives `BAD`; it goes on behind a problem, so that everything
wrong is found at once. Which shapes the configuration has is in `tree.py`, what several values must agree on in
`rules.py`.
"""
from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeproxy.config.forms import VARIABLE, ScalarForm, expand, scalar_form
from edgeproxy.config.nodes import Document, Node
from edgeproxy.config.problem import quoted

BAD: Any = object()
MERGE = "<<"
"""A key that might have brought any other; it is refused, and what it would have brought is not missed."""
_FOUND = {"scalar": "one value", "sequence": "a list", "mapping": "a map"}


@dataclass(slots=True)
class Entry:
    """A listener, route or service as read."""

    name: str
    value: Any
    """None if it is not even a map."""
    document: Document
    key: Node
    """Where its name stands, or it begins."""
    node: Node
    bad: frozenset[str] = frozenset()
    """Keys that could not be read; the value has their defaults."""


@dataclass(slots=True)
class Reader:
    """Reads one document; `entries` and `names` are shared by all documents of a configuration."""

    document: Document
    env: Mapping[str, str]
    entries: dict[type, list[Entry]] = field(default_factory=dict)
    unnamed: Callable[[Mapping[str, Any]], str] = field(default=lambda values: "")
    """Makes the name of an entry in a list that has none."""

    def scalar(self, node: Node, words: str) -> str | None:
        """The text of a scalar, variables expanded; None after a problem."""
        if not self.is_a(node, "scalar", words):
            return None
        text: str = node.value
        if not node.style and text in ("", "~", "null"):
            word = ', or "null" in quotes for the word' if text == "null" else ""
            self.document.refuse(node, f"no value; expected {words}{word}")
            return None
        if "$" in text:
            try:
                text = expand(text, self.variable)
            except ValueError as error:
                self.document.refuse(node, str(error))
                return None
        if not text.isascii() and not _encodable(text):
            self.document.refuse(node, "a character that no text can hold (half of a surrogate pair)")
            return None
        return text

    def entry(self, shape: MapOf, node: Node, key: Node, name: str | None) -> None:
        """Reads a listener, route or service and keeps it with its place, broken or not."""
        bad: set[str] = set()
        values = shape.values(self, node, bad)
        value = None
        if values is not None:
            if name is None:
                name = values.setdefault("name", "") or self.unnamed(values)
            values["name"] = name
            value = shape.build(**values)
        entry = Entry(name or "", value, self.document, key, node, frozenset(bad))
        self.entries.setdefault(shape.kind, []).append(entry)

    def variable(self, name: str) -> str | None:
        value = self.env.get(name)
        if value is not None and not _encodable(value):
            raise ValueError(f"the environment variable {name} is not UTF-8")
        return value

    def is_a(self, node: Node, kind: str, words: str, instead: Callable[[str], str] | None = None) -> bool:
        """`instead`: what to write in place of one value, if that is known."""
        if node.tag:
            self.document.refuse(node, f"tags such as {quoted(node.tag)} are not used here; write the value alone")
        elif node.id != kind:
            found = _FOUND[node.id]
            if node.id == "scalar":
                found = quoted(node.value) if node.value or node.style else "no value"
            advice = instead(node.value) if instead is not None and node.id == "scalar" else ""
            self.document.refuse(node, f"expected {words}, found {found}{advice and '; write ' + advice}")
        else:
            return True
        return False


class Shape:
    """What a value looks like in the file. `words` completes "expected …"."""

    words: str

    def read(self, reader: Reader, node: Node) -> Any:
        raise NotImplementedError

    def schema(self, maps: dict[str, MapOf]) -> dict[str, Any]:
        """The JSON Schema; maps it refers to are added to `maps`."""
        raise NotImplementedError


class Scalar(Shape):
    def __init__(self, form: ScalarForm) -> None:
        self.form = form
        self.words = form.words
        self._parse = form.parse

    def read(self, reader: Reader, node: Node) -> Any:
        text = reader.scalar(node, self.words)
        if text is None:
            return BAD
        try:
            value = self._parse(text)
            if self.form.anchored is not None:
                value = self.form.anchored(value, reader.document.folder)
        except ValueError as error:
            reader.document.refuse(node, str(error))
            return BAD
        return value

    def schema(self, maps: dict[str, MapOf]) -> dict[str, Any]:
        return self.form.schema


class Choice(Shape):
    """One of a few words or numbers; `also` goes behind them in messages."""

    def __init__(self, options: tuple[Any, ...], also: str = "") -> None:
        self.options = {str(option): option for option in options}
        names = list(self.options)
        self.words = f"{', '.join(names[:-1])}{' or ' if names[1:] else ''}{names[-1]}" + also

    def read(self, reader: Reader, node: Node) -> Any:
        text = reader.scalar(node, self.words)
        if text is None:
            return BAD
        if text not in self.options:
            guess = None if not any(map(str.isalpha, text)) else reader.document.problems.guess(text, self.options)
            advice = f', did you mean "{guess}"?' if guess else f"; write {self.words}"
            reader.document.refuse(node, f"unknown value {quoted(text)}{advice}")
            return BAD
        return self.options[text]

    def schema(self, maps: dict[str, MapOf]) -> dict[str, Any]:
        return {"anyOf": [{"enum": list(self.options.values())}, VARIABLE]}


class ListOf(Shape):
    """A list; with `or_one` its only value may stand alone, and the word `empty`, if it has one, is the empty list.
    Values given twice are refused if they are scalars."""

    def __init__(self, item: Shape, or_one: bool, may_be_empty: bool, empty: str = "") -> None:
        self.item = item
        self.or_one = or_one
        self.may_be_empty = may_be_empty
        self.empty = empty
        one = item.short if isinstance(item, ShortOr) else item
        self.words = f"{one.words}, or a list" if or_one else f"a list, each {one.words}"
        if empty:
            self.words = f"{empty}, {self.words}"

    def read(self, reader: Reader, node: Node) -> Any:
        if self.empty and node.id == "scalar":
            text = reader.scalar(node, self.words)
            if text is None or text == self.empty:
                return BAD if text is None else ()
            if reader.document.problems.guess(text, (self.empty,)):
                reader.document.refuse(node, f'unknown value {quoted(text)}, did you mean "{self.empty}"?')
                return BAD
        if self.or_one and node.id != "sequence":
            value = self.item.read(reader, node)
            return BAD if value is BAD else (value,)
        if not reader.is_a(node, "sequence", self.words):
            return BAD
        if not node.value and not self.may_be_empty:
            reader.document.refuse(node, "this list is empty; write a value or leave the key out")
            return BAD
        values = []
        seen: dict[Any, Node] = {}
        good = True
        for child in node.value:
            value = self.item.read(reader, child)
            if value is BAD:
                good = False
                continue
            identity = getattr(value, "address", None) or getattr(value, "name", value)
            if identity in seen:
                first = seen[identity].start_mark.line + 1
                reader.document.refuse(child, f"{quoted(str(identity))} is in the list already, in line {first}")
            seen[identity] = child
            values.append(value)
        return tuple(values) if good else BAD

    def schema(self, maps: dict[str, MapOf]) -> dict[str, Any]:
        item = self.item.schema(maps)
        listed: dict[str, Any] = {"type": "array", "items": item}
        if not self.may_be_empty:
            listed["minItems"] = 1
        word = [{"const": self.empty}] if self.empty else []
        return {"anyOf": [*word, item, listed]} if self.or_one else listed


class Pairs(Shape):
    """A map of names to texts, kept as pairs in the order of the file. `folded`: names differ in more than case."""

    words = "a map of names and values"

    def __init__(self, name: ScalarForm, value: ScalarForm, folded: bool) -> None:
        self.name = Scalar(name)
        self.value = Scalar(value)
        self.folded = folded

    def read(self, reader: Reader, node: Node) -> Any:
        if not reader.is_a(node, "mapping", self.words):
            return BAD
        pairs = []
        seen: dict[str, Node] = {}
        good = True
        for key_node, value_node in node.value:
            key = self.name.read(reader, key_node)
            value = self.value.read(reader, value_node)
            if key is BAD or value is BAD:
                good = False
                continue
            identity = key.lower() if self.folded else key
            if identity in seen:
                refuse_twice(reader, key_node, identity, seen[identity])
            seen[identity] = key_node
            pairs.append((key, value))
        return tuple(pairs) if good else BAD

    def schema(self, maps: dict[str, MapOf]) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.value.schema(maps)}



@dataclass(frozen=True, slots=True)
class Part:
    """One key of a map: the key, the field it becomes, and what may stand behind it."""

    key: str
    name: str
    shape: Shape
    required: bool = False
    default: Any = None
    protocols: tuple[str, ...] = ()
    """Of the listeners that know it; empty: all."""


class Misfit(ValueError):
    """Of two keys of one map; raised by what builds the value, told at `key`."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class MapOf(Shape):
    """A map with the keys of a dataclass. The parts come late because maps are within maps.

    `whole`: with a mistake in it there is no value at all, since rules.py would judge what is left out by mistake.
    `instead`: of one value that stands there, what was meant; empty: nobody knows.
    """

    def __init__(self, kind: type, parts: Callable[[], Iterable[Part]], build: Callable[..., Any] | None = None,
                 whole: bool = False, instead: Callable[[str], str] | None = None) -> None:
        self.kind = kind
        self.build = build or kind
        self.whole = whole
        self.instead = instead
        self.words = "a map"
        self._late_parts = parts
        self._parts: dict[str, Part] | None = None

    @property
    def parts(self) -> dict[str, Part]:
        if self._parts is None:
            self._parts = {part.key: part for part in self._late_parts()}
            self.words = f"a map with {', '.join(self._parts)}" if self._parts else "{}"
        return self._parts

    def read(self, reader: Reader, node: Node) -> Any:
        bad: set[str] = set()
        before = len(reader.document.problems.found)
        values = self.values(reader, node, bad)
        if values is None or any(part.required and part.key in bad for part in self.parts.values()):
            return BAD
        if self.whole and len(reader.document.problems.found) != before:
            return BAD
        try:
            return self.build(**values)
        except Misfit as error:
            place = next((name for name, _ in node.value if name.value == error.key), node)
            reader.document.refuse(place, str(error))
            return BAD

    def values(self, reader: Reader, node: Node, bad: set[str], complete: bool = True) -> dict[str, Any] | None:
        """The fields that are in the map; None if it is no map.

        `bad` gains the keys that could not be read or were misspelt. Not `complete`: what is required may be in
        another file.
        """
        parts = self.parts
        if not reader.is_a(node, "mapping", self.words, self.instead):
            return None
        values: dict[str, Any] = {}
        seen: dict[str, Node] = {}
        for key_node, value_node in node.value:
            part = parts.get(key_node.value) if key_node.id == "scalar" and not key_node.tag else None
            if part is None:
                guess = refuse_key(reader, key_node, parts)
                if guess:
                    bad.add(guess)
                continue
            if part.key in seen:
                refuse_twice(reader, key_node, part.key, seen[part.key])
                continue
            seen[part.key] = key_node
            if is_null(value_node) and not part.required:
                continue  # as if it were left out
            value = part.shape.read(reader, value_node)
            if value is BAD:
                bad.add(part.key)
            else:
                values[part.name] = value
        if complete:
            self._require(reader, node, seen.keys() | bad, values, bad)
        return values

    def _require(self, reader: Reader, node: Node, seen: Collection[str], values: dict[str, Any],
                 bad: set[str]) -> None:
        missing = [part for part in self.parts.values() if part.required and part.name not in values]
        absent = [part.key for part in missing if part.key not in seen and MERGE not in seen]
        if absent:
            names = " and ".join(quoted(key) for key in absent)
            reader.document.refuse(node, f"{names} {'is' if len(absent) == 1 else 'are'} missing here")
        for part in missing:  # a stand-in that is never used, since there is a problem now
            bad.add(part.key)
            values[part.name] = ()

    def schema(self, maps: dict[str, MapOf]) -> dict[str, Any]:
        maps.setdefault(self.kind.__name__, self)
        return {"$ref": f"#/$defs/{self.kind.__name__}"}


class Named(Shape):
    """A map of names of the user's choice to entries; they are kept in `reader.entries`."""

    words = "a map of names, each with a map"

    def __init__(self, item: MapOf) -> None:
        self.item = item
        self._name = Scalar(scalar_form("name", 0, 0))

    def read(self, reader: Reader, node: Node) -> Any:
        if not reader.is_a(node, "mapping", self.words):
            return BAD
        for key_node, value_node in node.value:
            name = self._name.read(reader, key_node)
            if name is not BAD:
                reader.entry(self.item, value_node, key_node, name)
        return {}

    def schema(self, maps: dict[str, MapOf]) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.item.schema(maps),
                "propertyNames": {"pattern": "^[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?$"}}


class Entries(Shape):
    """A list of entries; they are kept in `reader.entries`."""

    words = "a list of maps"

    def __init__(self, item: MapOf) -> None:
        self.item = item

    def read(self, reader: Reader, node: Node) -> Any:
        if not reader.is_a(node, "sequence", self.words):
            return BAD
        for child in node.value:
            reader.entry(self.item, child, child, None)
        return ()

    def schema(self, maps: dict[str, MapOf]) -> dict[str, Any]:
        return {"type": "array", "items": self.item.schema(maps)}


class ShortOr(Shape):
    """A short form in one word, or another shape."""

    def __init__(self, short: Shape, build: Callable[[Any], Any], full: Shape) -> None:
        self.short = short
        self.build = build
        self.full = full
        self.words = short.words if short.words.endswith(full.words) else f"{short.words}, or {full.words}"

    def read(self, reader: Reader, node: Node) -> Any:
        if node.id == "mapping":
            return self.full.read(reader, node)
        if node.id == "sequence":
            reader.is_a(node, "scalar", self.words)
            return BAD
        value = self.short.read(reader, node)
        return BAD if value is BAD else self.build(value)

    def schema(self, maps: dict[str, MapOf]) -> dict[str, Any]:
        return {"anyOf": [self.short.schema(maps), self.full.schema(maps)]}


class OneKey(Shape):
    """A map with exactly one of several keys; `instead` as of `MapOf`."""

    def __init__(self, options: Mapping[str, Shape], build: Callable[[str, Any], Any],
                 instead: Callable[[str], str] | None = None) -> None:
        self.options = options
        self.build = build
        self.instead = instead
        self.words = " or ".join(f"{{{key}: …}}" for key in options)

    def read(self, reader: Reader, node: Node) -> Any:
        if not reader.is_a(node, "mapping", self.words, self.instead):
            return BAD
        if len(node.value) != 1:
            reader.document.refuse(node, f"expected exactly one of {', '.join(self.options)}")
            return BAD
        key_node, value_node = node.value[0]
        key = key_node.value if key_node.id == "scalar" and not key_node.tag else ""
        if key not in self.options:
            refuse_key(reader, key_node, self.options)
            return BAD
        value = self.options[key].read(reader, value_node)
        return BAD if value is BAD else self.build(key, value)

    def schema(self, maps: dict[str, MapOf]) -> dict[str, Any]:
        return {"anyOf": [{"type": "object", "properties": {key: shape.schema(maps)}, "required": [key],
                           "additionalProperties": False} for key, shape in self.options.items()]}


def is_null(node: Node) -> bool:
    """The word, not just nothing: a key whose value was forgotten is a mistake."""
    return node.id == "scalar" and node.value in ("null", "~") and not node.style and not node.tag


def refuse_twice(reader: Reader, node: Node, key: str, first: Node) -> None:
    reader.document.refuse(node, f"{quoted(key)} is given twice, first in line {first.start_mark.line + 1}")


def refuse_key(reader: Reader, node: Node, known: Collection[str]) -> str | None:
    """Gives the key that was probably meant."""
    if node.id != "scalar" or node.tag:
        reader.document.refuse(node, f"a key is one word; known here: {', '.join(known)}")
        return None
    if node.value == MERGE and not node.style:
        reader.document.refuse(node, "merge keys are not used here; write the keys out, or repeat a whole map by *NAME")
        return MERGE
    guess = reader.document.problems.guess(node.value, known)
    known_here = f"known here: {', '.join(known)}" if known else "nothing goes here"
    advice = f', did you mean "{guess}"?' if guess else f"; {known_here}"
    reader.document.refuse(node, f"unknown key {quoted(node.value)}{advice}")
    return guess


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
