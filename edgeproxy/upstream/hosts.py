"""The two files in which a system says how names are resolved: /etc/hosts and /etc/resolv.conf.

Both are read when they are asked for and have changed, whatever way they were changed (written anew, renamed over, a
symlink turned); a file that cannot be read is an empty one, as for the C library. No name is resolved here.
"""
from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from time import time

from edgeproxy.config.model import Nameserver

# resolv.conf(5): what counts at most.
SERVERS, NDOTS, TIMEOUT, ATTEMPTS = 3, 15, 30, 5
_LOOPBACK = ("127.0.0.1", "::1")
_SETTLED = 0.1  # seconds after which a change of the file is sure to give it another time


class TextFile:
    """A file that is read again when it is another one, or has changed."""

    __slots__ = ("path", "text", "_seen", "_fresh")

    def __init__(self, path: str) -> None:
        self.path = path
        self.text = ""
        self._seen: tuple[int, ...] = ()
        self._fresh = True

    def changed(self) -> bool:
        """Whether `text` is another one than at the call before. The first call says yes."""
        seen = self._look()
        if seen == self._seen and not self._fresh:
            return False
        first, self._seen = self._seen == (), seen
        # The clock of a file system goes in steps of some milliseconds: of two changes within one, only the first is
        # seen by the times. So a file that was changed just now is read once more when it is asked for.
        self._fresh = bool(seen[0]) and abs(time() - seen[1] / 1e9) < _SETTLED
        before, self.text = self.text, self._read()
        return first or self.text != before

    def _look(self) -> tuple[int, ...]:
        try:
            stat = os.stat(self.path)
        except (OSError, ValueError):
            return (0, 0)
        return stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_dev

    def _read(self) -> str:
        try:
            with open(self.path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except (OSError, ValueError):
            return ""


# ---- hosts

class HostsFile:
    """hosts(5). Only the lines that have the name are looked at: such files can have a hundred thousand."""

    __slots__ = ("_file", "_text", "_known")

    def __init__(self, path: str) -> None:
        self._file = TextFile(path)
        self._text = ""
        self._known: dict[str, tuple[str, ...]] = {}

    def addresses(self, name: str) -> tuple[str, ...]:
        """Of `name`, v4 and v6, in the order of the file. `localhost` and what ends in it is the loopback when the file
        does not have it (RFC 6761 section 6.3). () if it is not there."""
        if self._file.changed():
            self._text = self._file.text.lower()
            self._known.clear()
        name = name.lower().removesuffix(".")
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = _listed(self._text, name)
        if not known and (name == "localhost" or name.endswith(".localhost")):
            return _LOOPBACK
        return known


def _listed(text: str, name: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    at = text.find(name) if name else -1
    while at >= 0:
        start, end = text.rfind("\n", 0, at) + 1, text.find("\n", at)
        end = len(text) if end < 0 else end
        address, *names = text[start:end].partition("#")[0].split() or [""]
        if name in [listed.removesuffix(".") for listed in names] and (plain := plain_address(address)):
            found[plain] = None
        at = text.find(name, end)
    return tuple(found)


def plain_address(text: str) -> str:
    """An IP address in its one way of writing; "" if it is none."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, text))
    except (OSError, ValueError):
        return ""


# ---- resolv.conf

@dataclass(frozen=True, slots=True)
class ResolvConf:
    """What resolv.conf(5) says, with its defaults."""

    nameservers: tuple[Nameserver, ...] = (Nameserver("127.0.0.1"),)
    """The first three. The host of a link-local one has its scope: `fe80::1%eth0`."""
    search: tuple[str, ...] = ()
    """Domains without the last dot."""
    ndots: int = 1
    timeout: float | None = None
    """Seconds for one question to one nameserver; None: not said."""
    attempts: int = 2

    def candidates(self, name: str) -> tuple[str, ...]:
        """The absolute names, without the last dot, that `name` may stand for, in the order they are to be asked."""
        if name.endswith("."):
            return (name[:-1],)
        listed = [f"{name}.{domain}" for domain in self.search]
        ordered = [name, *listed] if name.count(".") >= self.ndots else [*listed, name]
        return tuple(dict.fromkeys(ordered))


class ResolvConfFile:
    __slots__ = ("_file", "_now")

    def __init__(self, path: str) -> None:
        self._file = TextFile(path)
        self._now = ResolvConf()

    def now(self) -> ResolvConf:
        """What the file says now. One `stat`, if it has not changed."""
        if self._file.changed():
            self._now = read_resolv_conf(self._file.text, socket.gethostname())
        return self._now


def read_resolv_conf(text: str, hostname: str) -> ResolvConf:
    """The last of `search` and `domain` counts, without both the domain of `hostname`; lines that say nothing known or
    nothing valid are passed over, as the C library does."""
    servers: list[Nameserver] = []
    search = [domain] if (domain := hostname.partition(".")[2].rstrip(".")) else []
    said: dict[str, int] = {}
    for line in text.splitlines():
        if line[:1] in "#;":
            continue
        keyword, *words = line.split() or [""]
        if keyword == "nameserver" and words and (server := _nameserver(words[0])):
            servers.append(server)
        elif keyword in ("search", "domain") and words:
            search = [domain.rstrip(".") for domain in (words if keyword == "search" else words[:1])]
        elif keyword == "options":
            said |= dict(_numbers(words))
    timeout = said.get("timeout")
    return ResolvConf(tuple(servers[:SERVERS]) or ResolvConf().nameservers, tuple(filter(None, search)),
                      min(said.get("ndots", 1), NDOTS), min(max(timeout, 1), TIMEOUT) if timeout is not None else None,
                      min(max(said.get("attempts", 2), 1), ATTEMPTS))


def _nameserver(text: str) -> Nameserver | None:
    address, percent, scope = text.partition("%")
    plain = plain_address(address)
    if not plain or (percent and not (scope and ":" in plain)):
        return None
    return Nameserver(f"{plain}{percent}{scope}")


def _numbers(words: list[str]) -> list[tuple[str, int]]:
    pairs = [word.partition(":") for word in words]
    return [(key, int(value)) for key, _, value in pairs if value.isascii() and value.isdigit() and len(value) < 9]
