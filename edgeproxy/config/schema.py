"""The JSON Schema (2020-12) of the configuration, from the same dataclasses, shapes and docstrings as the loader.

`python -m edgeproxy.config.schema > conf/edgeproxy.schema.json`. Editors complete and check with it; it lets pass some
things that the loader refuses (addresses, references), and nothing that the loader takes is refused by it.
"""
from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from edgeproxy.config import model, services
from edgeproxy.config.rules import LEADS, NEEDED
from edgeproxy.config.rules_services import PROBES
from edgeproxy.config.shapes import Choice, ListOf, MapOf, Pairs, Part, Scalar, Shape, ShortOr
from edgeproxy.config.tree import map_of, root

FILE = "edgeproxy.schema.json"
"""Its name beside the example configurations."""
_VARIABLE = {"type": "string", "pattern": r"\$\{",
             "description": "A value from the environment: ${NAME} or ${NAME:-default}."}

_GIVEN = {"not": {"type": "null"}}


def json_schema() -> dict[str, Any]:
    """The schema of a whole file."""
    top = _map_schema(root(), {})
    top["required"] = ["listeners"]
    definitions: dict[str, Any] = {shape.kind.__name__: _map_schema(shape, {}) for shape in all_maps()[1:]}
    definitions["variable"] = _VARIABLE
    definitions["Listener"]["allOf"] = [_for_protocol(protocol) for protocol in ("http", "https", "tcp", "tls")]
    for kind, keys in (("Route", LEADS), ("Health", PROBES)):
        definitions[kind]["oneOf"] = [{"required": [key], "properties": {key: _GIVEN}} for key in keys]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "edgeproxy configuration", **top,
            "$defs": dict(sorted(definitions.items()))}


def text() -> str:
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def all_maps() -> list[MapOf]:
    """Every map of a file, the root first."""
    names: dict[str, MapOf] = {}
    found = [root()]
    for shape in found:
        known = set(names)
        for part in shape.parts.values():
            part.shape.schema(names)
        found += [names[name] for name in names if name not in known]
    return found


def _map_schema(shape: MapOf, maps: dict[str, MapOf]) -> dict[str, Any]:
    properties = {}
    for part in shape.parts.values():
        schema = part.shape.schema(maps) if part.required else _or_null(part.shape.schema(maps))
        words = doc_of(shape.kind, part.name)
        properties[part.key] = {**schema, **({"description": words} if words else {}), **_default(part)}
    required = [part.key for part in shape.parts.values() if part.required]
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a key that may be left out: null does the same."""
    if schema.keys() == {"anyOf"}:
        return {"anyOf": [*schema["anyOf"], {"type": "null"}]}
    return {"anyOf": [schema, {"type": "null"}]}


def _default(part: Part) -> dict[str, Any]:
    shown = default_of(part)
    return {} if shown is None else {"default": shown}


def _for_protocol(protocol: str) -> dict[str, Any]:
    """What a listener of this protocol may not have."""
    parts = map_of(model.Listener).parts.values()
    others: dict[str, Any] = {part.key: {"type": "null"} for part in parts
                              if part.protocols and protocol not in part.protocols}
    then: dict[str, Any] = {"properties": others}
    if protocol in NEEDED:
        then["required"] = [NEEDED[protocol]]
        others[NEEDED[protocol]] = _GIVEN
    return {"if": {"properties": {"protocol": {"const": protocol}}}, "then": then}


def default_of(part: Part) -> Any:
    """The default as it would stand in the file; None where there is nothing to show."""
    return None if part.required else as_written(part.shape, part.default)


def as_written(shape: Shape, value: Any) -> Any:
    """A value of the model in the words of the file, as far as defaults need it."""
    if isinstance(shape, Scalar):
        return None if value is None else shape.form.show(value)
    if isinstance(shape, ShortOr) and isinstance(value, model.PathMatch):
        return value.value
    if isinstance(shape, ShortOr) and isinstance(value, model.Balance):
        return value.kind
    if isinstance(shape, Choice):
        return value
    if isinstance(shape, ListOf) and shape.empty and value == ():
        return shape.empty
    if isinstance(shape, ListOf) and value:
        return [as_written(shape.item, item) for item in value]
    if isinstance(shape, Pairs | MapOf | ListOf):
        return None  # empty, or told by its own keys
    return None


@cache
def _docs() -> dict[tuple[str, str], str]:
    """(class, field) → the docstring under it. Empty if the source is not at hand."""
    found: dict[tuple[str, str], str] = {}
    for path in (model.__file__, services.__file__):
        try:
            tree = ast.parse(Path(path).read_text(encoding="utf-8"))
        except (OSError, SyntaxError):
            continue
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                found.update(_docs_of(node))
    return found


def _docs_of(node: ast.ClassDef) -> Iterator[tuple[tuple[str, str], str]]:
    for statement, below in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(statement, ast.FunctionDef):
            yield (node.name, statement.name), " ".join((ast.get_docstring(statement) or "").split())
        elif (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
                and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)):
            yield (node.name, statement.target.id), " ".join(str(below.value.value).split())


def doc_of(kind: type, name: str) -> str:
    """The words for a field; "" if it needs none."""
    return _docs().get((kind.__name__, name), "")


if __name__ == "__main__":
    sys.stdout.write(text())
