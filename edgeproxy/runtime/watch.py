"""Certificates that change in their files: read again, checked, and swapped for new handshakes.

Files are looked at by time, size and inode, once a second, in a thread: inotify is silent for bind mounts and for the
links of a Kubernetes secret (envoy#3928). A pair that cannot be used keeps the old one serving and is told once for
each change; but not at first sight, because a certificate and its key are seldom written in the same moment.
"""
from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from time import monotonic, time

from edgeproxy.config.certificates import Certificate, CertificateError, cautions, read_bundle, read_certificate
from edgeproxy.config.model import Config
from edgeproxy.config.problem import ConfigError
from edgeproxy.net.certificates import Site, TlsServer, try_out
from edgeproxy.snapshot import Rules, renew_rules

_log = logging.getLogger("edgeproxy")

INTERVAL = 1.0
ROTATION = 12 * 3600.0
"""Keys of session tickets are used no longer (RFC 5077 §5.5): who steals one reads so much of what was said."""
WARMED = 10
RECENT = 60.0
DAY = 86400.0
SHARE = 50  # looking takes at most this part of the time: 10 000 files are looked at every other second

Look = tuple[int, int, int]
"""inode, nanoseconds of the last change, size; zeros: there is no such file."""
Files = dict[str, Look]
NOTHING: Look = (0, 0, 0)


class Clock:
    """What time it is, and how it passes; a test has another."""

    __slots__ = ()

    def since(self) -> float:
        """Seconds of the clock that never jumps."""
        return monotonic()

    def date(self) -> float:
        """Seconds of UTC."""
        return time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def look(path: str) -> Look:
    try:
        status = os.stat(path)
    except OSError:
        return NOTHING
    return status.st_ino, status.st_mtime_ns, status.st_size


def pairs_of(config: Config) -> list[tuple[str, str]]:
    """Certificate and key, of listeners and of services."""
    pairs = [pair for listener in config.listeners.values() if listener.tls for pair in listener.tls.certificates]
    pairs += [service.tls.client_cert for service in config.services.values() if service.tls.client_cert]
    return list(dict.fromkeys((pair.cert, pair.key) for pair in pairs))


def bundles_of(config: Config) -> list[str]:
    """Of authorities: those of clients, and those of endpoints."""
    auths = [listener.tls.client_auth for listener in config.listeners.values() if listener.tls]
    bundles = [auth.ca for auth in auths if auth] + [s.tls.ca for s in config.services.values() if s.tls.ca]
    return list(dict.fromkeys(bundles))


def watched(config: Config) -> list[str]:
    """The files whose change is picked up."""
    paths = [path for pair in pairs_of(config) for path in pair]
    return list(dict.fromkeys(paths + bundles_of(config)))


def new_bundles(config: Config, before: Rules, rules: Rules) -> list[str]:
    """Of authorities whose content is another one in `rules`: a file may be written anew and say the same."""
    found = [listener.tls.client_auth.ca for name, listener in config.listeners.items()
             if listener.tls and listener.tls.client_auth and name in before.tls
             and before.tls[name].authorities != rules.tls[name].authorities]
    found += [service.tls.ca for name, service in config.services.items()
              if service.tls.ca and name in before.endpoints_tls
              and before.endpoints_tls[name].authorities != rules.endpoints_tls[name].authorities]
    return list(dict.fromkeys(found))


async def warm(servers: Iterable[TlsServer]) -> None:
    """Make the contexts that nobody has asked for yet, a few at a time in a thread, half of the time at most."""
    for server in servers:
        sites = server.cold()
        for at in range(0, len(sites), WARMED):
            began = monotonic()
            await asyncio.to_thread(_make, sites[at:at + WARMED])
            await asyncio.sleep(monotonic() - began)


def _make(sites: list[Site]) -> None:
    for site in sites:
        try:
            site.context()
        except (OSError, ValueError) as error:
            _log.error("OpenSSL does not take the certificate %s: %s", site.certificates[0].cert, error)


def warn(config: Config, now: float) -> None:
    """Say what `edgeproxy check` says of certificates: one that ends soon must not need somebody who asks."""
    for certificate in config.certificates.values():
        for caution in cautions(certificate, now):
            _log.warning("%s", caution)


class CertificateWatch:
    """`config` and `rules` give those that run; `renewed(old, new, rules)` is called in the loop with what is to take
    their place."""

    __slots__ = ("_clock", "_config", "_rules", "_renewed", "_seen", "_pending", "_known", "_paths", "_told",
                 "_rotate_at", "_warn_at", "_task")

    def __init__(self, loop: asyncio.AbstractEventLoop, config: Callable[[], Config], rules: Callable[[], Rules],
                 renewed: Callable[[Config, Config, Rules], None], clock: Clock) -> None:
        self._clock = clock
        self._config = config
        self._rules = rules
        self._renewed = renewed
        self._seen: Files = {}
        self._pending: Files = {}
        self._known: Config | None = None
        self._told = ""  # why a renewal failed the last time
        self._paths: list[str] = []
        self._rotate_at = clock.since() + ROTATION
        self._warn_at = clock.since()
        self._task = loop.create_task(self._watch())

    def stop(self) -> None:
        self._task.cancel()

    async def _watch(self) -> None:
        pause = INTERVAL
        while True:
            await self._clock.sleep(pause)
            began = monotonic()
            try:
                await self._round(self._clock.since())
            except Exception:
                _log.exception("watching certificates failed, it goes on; please report it")
            pause = max(INTERVAL, SHARE * (monotonic() - began))

    async def _round(self, now: float) -> None:
        config = self._config()
        # A reload may have read files before they changed the last time. And once a day what ends soon is said again.
        if config is not self._known or now >= self._warn_at:
            self._known, self._paths = config, watched(config)
            self._seen.clear()
            self._warn_at = now + DAY
            await asyncio.to_thread(warn, config, self._clock.date())
        if self._paths:
            found = await asyncio.to_thread(self._look)
            rotate = now >= self._rotate_at
            if found or rotate:
                await self._renew(config, found, rotate)

    def _look(self) -> Files:
        """The files that have changed."""
        found = {}
        for path in self._paths:
            now = look(path)
            seen = self._seen.get(path)
            if seen == now:
                continue
            # What is seen for the first time may have changed between its reading and this look.
            if seen is not None or now == NOTHING or self._clock.date() - now[1] / 1e9 < RECENT:
                found[path] = now
            else:
                self._seen[path] = now
        return found

    async def _renew(self, config: Config, found: Files, rotate: bool) -> None:
        """Take what has changed since it was last used or refused."""
        certificates, refused = await asyncio.to_thread(reread, config, found, self._clock.date())
        fresh = {path for path in found if not any(path in why.files for why in refused)}
        now = {path: at for path, at in found.items() if path not in fresh}
        for why in refused:
            looks = {path: now[path] for path in why.files if path in now}
            if all(self._pending.get(path) == at for path, at in looks.items()):  # it is the same as a second ago
                self._seen.update(looks)
                _log.error("%s; the certificate that was read before stays in use", why)
        self._pending = now
        certificates = {pair: read for pair, read in certificates.items() if config.certificates.get(pair) != read}
        if not fresh and not rotate:
            return
        renewed = replace(config, certificates=config.certificates | certificates)
        before = self._rules()
        try:
            rules = await asyncio.to_thread(renew_rules, renewed, before, rotate)
        except ConfigError as error:  # it is tried again each time: another file may be what stands in the way
            if str(error) != self._told:
                self._told = str(error)
                _log.error("%s; the certificates that were read before stay in use", error)
        else:
            self._told = ""
            self._seen.update({path: found[path] for path in fresh})
            if rotate:
                self._rotate_at = self._clock.since() + ROTATION
            self._renewed(config, renewed, rules)
            if self._config() is renewed:
                self._known = renewed
            for bundle in new_bundles(config, before, rules):
                _log.info("new authorities in %s", bundle)
            for certificate in certificates.values():
                _log.info("new certificate %s, sha256 %s, for %s", certificate.cert, certificate.fingerprint[:16],
                          ", ".join(certificate.names[:5]))


class Refusal(Exception):
    """Why a changed pair or bundle is not used."""

    def __init__(self, files: tuple[str, ...], why: str) -> None:
        super().__init__(why)
        self.files = files


def reread(config: Config, changed: Collection[str], now: float
           ) -> tuple[dict[tuple[str, str], Certificate], list[Refusal]]:
    certificates: dict[tuple[str, str], Certificate] = {}
    refused: list[Refusal] = []
    for cert, key in pairs_of(config):
        if cert in changed or key in changed:
            try:
                certificate = read_certificate(cert, key, now)
                try_out(certificate)
            except CertificateError as error:
                refused.append(Refusal((cert, key), str(error)))
            except (OSError, ValueError) as error:
                refused.append(Refusal((cert, key), f"{cert}: OpenSSL does not take it: {error}"))
            else:
                certificates[cert, key] = certificate
    for bundle in bundles_of(config):
        if bundle in changed:
            try:
                read_bundle(bundle)
            except CertificateError as error:
                refused.append(Refusal((bundle,), str(error)))
    return certificates, refused
