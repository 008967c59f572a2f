"""What differs between two configurations, in words: the log line of a reload.

Rules: pure; a value is named by what changed in it (`service web: balance, +10.0.0.9:80`), never by a dump of it.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from edgeproxy.config.model import Config, EndpointAddress

_SHOWN = 20
"""Lines in the text of a delta; 10 000 new routes are a number, not a list."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Names of one kind of thing, sorted."""

    word: str
    added: tuple[str, ...] = ()
    changed: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(name, what changed in it)"""
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)

    def lines(self) -> Iterator[str]:
        yield from (f"+ {self.word} {name}" for name in self.added)
        yield from (f"~ {self.word} {name}: {', '.join(parts)}" for name, parts in self.changed)
        yield from (f"- {self.word} {name}" for name in self.removed)

    def summary(self) -> str:
        counts = ((len(self.added), "added"), (len(self.changed), "changed"), (len(self.removed), "removed"))
        told = [f"{count} {word}" for count, word in counts if count]
        plural = self.word if sum(count for count, _ in counts) == 1 else f"{self.word}s"
        return f"{plural} {', '.join(told)}"


@dataclass(frozen=True, slots=True)
class Delta:
    """Falsy if nothing changed. `str` is one line."""

    listeners: Changes
    routes: Changes
    services: Changes
    endpoints: Changes
    """Named `service address`."""
    settings: tuple[str, ...] = ()
    """What else changed."""

    def __bool__(self) -> bool:
        return any((self.listeners, self.routes, self.services, self.endpoints, self.settings))

    def lines(self) -> list[str]:
        """A line for each change: `+ route a.b/x`, `~ service web: balance`, `- endpoint web 10.0.0.5:80`."""
        lines = [line for changes in self._all() for line in changes.lines()]
        return lines + [f"~ {name}" for name in self.settings]

    def __str__(self) -> str:
        lines = self.lines()
        if not lines:
            return "nothing changed"
        if len(lines) <= _SHOWN:
            return "; ".join(lines)
        told = [changes.summary() for changes in self._all() if changes]
        return "; ".join(told + [f"{name} changed" for name in self.settings])

    def _all(self) -> tuple[Changes, ...]:
        return self.listeners, self.routes, self.services, self.endpoints


def delta(old: Config, new: Config) -> Delta:
    """What must be done to come from `old` to `new`."""
    old_routes = {route.name: route for route in old.routes}
    new_routes = {route.name: route for route in new.routes}
    settings = [name for name in ("resolver", "admin", "access_log", "shutdown")
                if getattr(old, name) != getattr(new, name)]
    settings += [f"certificate {cert}" for cert in _renewed(old, new)]
    if [name for name in old_routes if name in new_routes] != [name for name in new_routes if name in old_routes]:
        settings.append("order of the routes")
    return Delta(
        _compare("listener", old.listeners, new.listeners),
        _compare("route", old_routes, new_routes),
        _compare("service", old.services, new.services, skip=("endpoints",)),
        _compare("endpoint", _endpoints(old), _endpoints(new)),
        tuple(settings))


def _compare(word: str, old: Mapping[str, Any], new: Mapping[str, Any], skip: tuple[str, ...] = ()) -> Changes:
    changed = []
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name]:
            parts = tuple(field.name for field in fields(new[name]) if field.name not in skip
                          and getattr(old[name], field.name) != getattr(new[name], field.name))
            if parts:
                changed.append((name, parts))
    return Changes(word, tuple(sorted(new.keys() - old.keys())), tuple(changed), tuple(sorted(old.keys() - new.keys())))


def _renewed(old: Config, new: Config) -> list[str]:
    """Files that are named as before and hold something else."""
    return sorted({key[0] for key, now in new.certificates.items()
                   if key in old.certificates and (old.certificates[key].chain_pem, old.certificates[key].key_pem)
                   != (now.chain_pem, now.key_pem)})


def _endpoints(config: Config) -> dict[str, EndpointAddress]:
    return {f"{name} {endpoint.address}": endpoint
            for name, service in config.services.items() for endpoint in service.endpoints}
