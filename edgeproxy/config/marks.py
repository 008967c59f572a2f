"""What stands beside a type in the model: how its text is read, under which key, for which protocols.

Rules: marks only, and the types that need one in several places; `tree.py` reads them.
"""
from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated

KIB = 1024
MOST = 1_000_000_000
"""Bound of every count: far above any use, far below what would overflow anywhere."""


@dataclass(frozen=True, slots=True)
class Form:
    """How the text in the file becomes the value: a word that `forms.py` knows, and the bounds of a number."""

    word: str
    low: float = 0
    high: float = MOST


@dataclass(frozen=True, slots=True)
class Key:
    """The key in the file, where it is not the name of the field."""

    word: str


@dataclass(frozen=True, slots=True)
class Only:
    """The protocols of a listener that know this key."""

    protocols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OneOrList:
    """A list, or just its only value."""

    empty: str = ""
    """A word for the empty list, where that has a meaning of its own."""


Name = Annotated[str, Form("name")]
Duration = Annotated[float, Form("duration")]
"""Seconds; 0 has a meaning of its own, told where it is used."""
Span = Annotated[float, Form("duration", 0.001)]
"""Seconds, never 0."""
Count = Annotated[int, Form("whole")]
Weight = Annotated[int, Form("whole", 0, 1_000_000)]
Network = Annotated[IPv4Network | IPv6Network, Form("network")]
FilePath = Annotated[str, Form("file-path")]
"""A file; relative to the configuration file, absolute after loading."""
ForHttp = Only(("http", "https"))
ForPlain = Only(("http",))
ForHttps = Only(("https",))
ForTcp = Only(("tcp",))
ForTls = Only(("tls",))
ForRelay = Only(("tcp", "tls"))
