"""Where in a document a value stands that was read from it.

Rules: looks up and never fails: the nearest place there is will do for a message.
"""
from __future__ import annotations

from edgeproxy.config.nodes import Node
from edgeproxy.config.shapes import Entry, is_null


def find(node: Node, *keys: str | int) -> Node:
    """The value behind these keys and positions, or the nearest there is."""
    for key in keys:
        found = None
        if node.id == "mapping" and isinstance(key, str):
            found = next((value for name, value in node.value if name.value == key), None)
        elif node.id == "sequence" and isinstance(key, int) and key < len(node.value):
            found = node.value[key]
        elif key == 0 or (node.id == "scalar" and key in ("name", "address")):
            found = node  # a short form stands for its only part
        if found is None:
            return node
        node = found
    return node


def key_of(node: Node, key: str) -> Node:
    """The key itself."""
    return next((name for name, _ in node.value if name.value == key), node) if node.id == "mapping" else node


def where(entry: Entry, seen_from: Entry) -> str:
    """Line, with the file if it is another one."""
    if entry.document is seen_from.document:
        return f"line {entry.key.start_mark.line + 1}"
    return entry.document.where(entry.key)


def keys_of(node: Node) -> set[str]:
    """Those with a value: null is as if it were not there."""
    return {str(name.value) for name, value in node.value if not is_null(value)} if node.id == "mapping" else set()
