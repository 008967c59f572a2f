"""The look-up by server name: exact, one label of a wildcard, the rest."""
from __future__ import annotations

import pytest

from edgeproxy.policy.sni import NameTable, covers

TABLE = NameTable([("a.example", 1), ("*.example", 2), ("*.b.example", 3), ("a.example", 9), ("*", 4)])


@pytest.mark.parametrize(("name", "found"), [
    ("a.example", ("a.example", 1)), ("A.Example.", ("a.example", 1)), ("b.example", ("*.example", 2)),
    ("a.b.example", ("*.b.example", 3)), ("a.a.b.example", ("*", 4)), ("example", ("*", 4)), (".example", ("*", 4)),
    ("", ("*", 4)), (None, ("*", 4)), ("other", ("*", 4)), ("*.example", ("*.example", 2)), ("*", ("*", 4)),
])
def test_the_best_pattern_wins(name: str | None, found: tuple[str, int]) -> None:
    assert TABLE.match(name) == found
    assert TABLE.find(name) == found[1]


def test_without_a_rest() -> None:
    table = NameTable([("a.example", 0)])
    assert table.find("a.example") == 0 and table.match("b.example") is None and table.find(None) is None


def test_a_default_is_the_rest() -> None:
    assert NameTable([("a.example", 1)], 2).match("x") == ("*", 2)
    assert NameTable([("*", 1)], 2).match("x") == ("*", 1)


def test_ten_thousand_names_are_as_many_look_ups_as_one() -> None:
    table = NameTable((f"h{n}.example", n) for n in range(10_000))
    assert [table.find(f"h{n}.example") for n in range(10_000)] == list(range(10_000))


@pytest.mark.parametrize(("host", "yes"), [
    ("a.example", True), ("A.EXAMPLE.", True), ("x.b.example", True), ("b.example", False), ("y.x.b.example", False),
    ("10.0.0.1", True), ("10.0.0.2", False), ("::1", True), ("", False), (".b.example", False),
])
def test_covers(host: str, yes: bool) -> None:
    assert covers({"a.example", "*.b.example", "10.0.0.1", "::1"}, host) is yes
