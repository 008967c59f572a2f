"""What is wrong with a configuration, told to a person: where, what, why, what to do.

Rules: a problem has one place (file, line, column, from 1); the first problem of a place is the cause, later ones are
dropped; all problems are told at once, in the order of the files.
"""
from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

_SHOWN = 100
"""Problems that `str(ConfigError)` prints; a screen full is enough to begin with."""
_WIDTH = 160
"""Longest source line that is shown whole."""
_GUESSES = 50
"""Suggestions made in one run: difflib is slow, and a wrong file may hold thousands of wrong names."""
_NAMES = 2000
"""Known names among which a suggestion is looked for."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong; line and column count from 1, line 0 means the file as a whole."""

    file: str
    line: int
    column: int
    message: str
    source: str = ""
    """The line it is in."""
    level: str = "error"

    def __str__(self) -> str:
        text, caret = _excerpt(self.source, self.column)
        return f"{self.headline()}\n{text}\n{caret}" if self.line and text else self.headline()

    def headline(self) -> str:
        """One line, for a log: `conf.yaml:4:5: unknown key "protcol", did you mean "protocol"?`"""
        said = self.message if self.level == "error" else f"{self.level}: {self.message}"
        if not self.file:
            return said
        file = printable(self.file if len(self.file) <= _WIDTH else f"…{self.file[-_WIDTH:]}")
        return f"{file}:{self.line}:{self.column}: {said}" if self.line else f"{file}: {said}"


class ConfigError(Exception):
    """The configuration cannot be used; `problems` holds everything that is wrong with it, sorted by place."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"... and {len(self.problems) - _SHOWN} more")
        return "\n".join(lines)


@dataclass(slots=True)
class Problems:
    """Gathers problems while files are read."""

    found: dict[tuple[int, str, int, int], Problem] = field(default_factory=dict)
    guesses: int = 0

    def add(self, order: int, problem: Problem) -> None:
        """`order` is the place of the file among the files."""
        self.found.setdefault((order, problem.file, problem.line, problem.column), problem)

    def sorted(self) -> list[Problem]:
        return [self.found[place] for place in sorted(self.found)]

    def near(self, word: str, known: Collection[str]) -> str:
        """`, did you mean "x"?`, or what there is, or nothing; goes behind a message."""
        guess = self.guess(word, known)
        return f', did you mean "{guess}"?' if guess else f"; {listing(known)}"

    def guess(self, word: str, known: Collection[str]) -> str | None:
        if self.guesses >= _GUESSES or len(word) > 64 or len(known) > _NAMES:
            return None
        self.guesses += 1
        folded = word.lower().replace("_", "-")
        for name in known:
            if name.lower().replace("_", "-") == folded:
                return name
        matches = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
        return matches[0] if matches else None


def listing(known: Iterable[str]) -> str:
    names = sorted(known)
    if not names:
        return "there are none"
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"there is: {shown}" if len(names) == 1 else f"there are: {shown}"


def quoted(text: str, limit: int = 60) -> str:
    """The text in quotes, short, and safe to print whatever it holds."""
    return '"' + printable(text[:limit] + ("…" if len(text) > limit else "")).replace('"', '\\"') + '"'


def printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _excerpt(source: str, column: int) -> tuple[str, str]:
    """The line and a caret under the column; a long line is cut around it, odd characters take the width they have."""
    start = 0
    if len(source) > _WIDTH:
        start = max(0, min(column - _WIDTH // 2, len(source) - _WIDTH))
    text = "".join(char if char.isprintable() else " " for char in source[start:start + _WIDTH])
    if not text.strip():
        return "", ""
    before = text[:max(0, column - 1 - start)]
    gap = sum(2 if unicodedata.east_asian_width(char) in "WF" else not unicodedata.combining(char) for char in before)
    return f"  {text.rstrip()}", f"  {' ' * gap}^"
