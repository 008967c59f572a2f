"""Certificates that change in their files: read again, checked, and swapped for new handshakes.

Files are looked at by time, size and inode, once a second, in a thread: inotify is silent for bind mounts and for the
links of a Kubernetes secret (envoy#3928). A pair that cannot be used keeps the old one serving and is told once for
each change; but not at first sight, because a certificate and its key are seldom written in the same moment.
"""
from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from time import monotonic, time

from edgeproxy.config.certificates import Certificate, CertificateError, read_bundle, read_certificate
from edgeproxy.config.model import Config
from edgeproxy.config.problem import ConfigError
from edgeproxy.net.certificates import Site, TlsServer
from edgeproxy.snapshot import compile_tls

_log = logging.getLogger("edgeproxy")

INTERVAL = 1.0
WARMED = 10
RECENT = 60.0
SHARE = 50  # looking takes at most this part of the time: 10 000 files are looked at every other second

Look = tuple[int, int, int]
"""inode, nanoseconds of the last change, size; zeros: there is no such file."""
Files = dict[str, Look]
NOTHING: Look = (0, 0, 0)


def look(path: str) -> Look:
    try:
        status = os.stat(path)
    except OSError:
        return NOTHING
    return status.st_ino, status.st_mtime_ns, status.st_size


def watched(config: Config) -> list[str]:
    """The files whose change is picked up."""
    paths: dict[str, None] = {}
    for listener in config.listeners.values():
        if listener.tls is not None:
            for pair in listener.tls.certificates:
                paths[pair.cert] = paths[pair.key] = None
            if listener.tls.client_auth is not None:
                paths[listener.tls.client_auth.ca] = None
    return list(paths)


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


class CertificateWatch:
    """`config` and `servers` give those that run; `renewed(old, new, servers)` is called in the loop with what is to
    take their place."""

    __slots__ = ("_config", "_servers", "_renewed", "_seen", "_pending", "_known", "_paths",
                 "_task")

    def __init__(self, loop: asyncio.AbstractEventLoop, config: Callable[[], Config],
                 servers: Callable[[], Mapping[str, TlsServer]],
                 renewed: Callable[[Config, Config, dict[str, TlsServer]], None]) -> None:
        self._config = config
        self._servers = servers
        self._renewed = renewed
        self._seen: Files = {}
        self._pending: Files = {}
        self._known: Config | None = None
        self._paths: list[str] = []
        self._task = loop.create_task(self._watch())

    def stop(self) -> None:
        self._task.cancel()

    async def _watch(self) -> None:
        pause = INTERVAL
        while True:
            await asyncio.sleep(pause)
            began = monotonic()
            try:
                await self._round()
            except Exception:
                _log.exception("watching certificates failed, it goes on; please report it")
            pause = max(INTERVAL, SHARE * (monotonic() - began))

    async def _round(self) -> None:
        config = self._config()
        if config is not self._known:  # a reload: it may have read the files before they changed the last time
            self._known, self._paths = config, watched(config)
            self._seen.clear()
        if self._paths:
            found = await asyncio.to_thread(self._look)
            if found:
                await self._renew(config, found)

    def _look(self) -> Files:
        """The files that have changed."""
        found = {}
        for path in self._paths:
            now = look(path)
            seen = self._seen.get(path)
            if seen == now:
                continue
            # What is seen for the first time may have changed between its reading and this look.
            if seen is not None or time() - now[1] / 1e9 < RECENT:
                found[path] = now
            else:
                self._seen[path] = now
        return found

    async def _renew(self, config: Config, found: Files) -> None:
        """Take what has changed since it was last used or refused."""
        certificates, refused = await asyncio.to_thread(reread, config, found)
        fresh = {path for path in found if not any(path in why.files for why in refused)}
        now = {path: at for path, at in found.items() if path not in fresh}
        for why in refused:
            looks = {path: now[path] for path in why.files if path in now}
            if all(self._pending.get(path) == at for path, at in looks.items()):  # it is the same as a second ago
                self._seen.update(looks)
                _log.error("%s; the certificate that was read before stays in use", why)
        self._pending = now
        certificates = {pair: read for pair, read in certificates.items() if config.certificates.get(pair) != read}
        self._seen.update({path: found[path] for path in fresh})
        if not fresh:
            return
        renewed = replace(config, certificates=config.certificates | certificates)
        try:
            servers = await asyncio.to_thread(compile_tls, renewed, self._servers())
        except ConfigError as error:
            _log.error("%s; the certificates that were read before stay in use", error)
        else:
            self._renewed(config, renewed, servers)
            if self._config() is renewed:
                self._known = renewed
            for certificate in certificates.values():
                _log.info("new certificate %s, sha256 %s, for %s", certificate.cert, certificate.fingerprint[:16],
                          ", ".join(certificate.names[:5]))


class Refusal(Exception):
    """Why a changed pair or bundle is not used."""

    def __init__(self, files: tuple[str, ...], why: str) -> None:
        super().__init__(why)
        self.files = files


def reread(config: Config, changed: Collection[str]) -> tuple[dict[tuple[str, str], Certificate], list[Refusal]]:
    certificates: dict[tuple[str, str], Certificate] = {}
    refused: list[Refusal] = []
    now = time()
    for listener in config.listeners.values():
        if listener.tls is None:
            continue
        for pair in listener.tls.certificates:
            if (pair.cert in changed or pair.key in changed) and (pair.cert, pair.key) not in certificates:
                try:
                    certificates[pair.cert, pair.key] = read_certificate(pair.cert, pair.key, now)
                except CertificateError as error:
                    refused.append(Refusal((pair.cert, pair.key), str(error)))
        auth = listener.tls.client_auth
        if auth is not None and auth.ca in changed:
            try:
                read_bundle(auth.ca)
            except CertificateError as error:
                refused.append(Refusal((auth.ca,), str(error)))
    return certificates, refused
