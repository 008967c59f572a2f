"""The files of certificates, keys and authorities that a configuration names: read, checked, and told where they stand.

Rules: every file is read once, however often it is named; all faults are told at once, each at the value that names the
file; what is wrong with a file is found by `certificates.py`.
"""
from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from edgeproxy.config.certificates import Certificate, CertificateError, read_bundle, read_certificate
from edgeproxy.config.model import CertificatePair, Listener, Service
from edgeproxy.config.places import find
from edgeproxy.config.shapes import Entry

Way = tuple[str | int, ...]
"""From a listener or service to a value in it."""


def read_named(entries: Mapping[type, Collection[Entry]], now: float | None) -> dict[tuple[str, str], Certificate]:
    """Adds a problem for each file that will not do. Without `now` (unix seconds) no date is judged."""
    found: dict[tuple[str, str], Certificate | CertificateError] = {}
    bundles: dict[str, CertificateError | None] = {}
    for entry in (*entries[Listener], *entries[Service]):
        for way, pair in _pairs(entry):
            key = (pair.cert, pair.key)
            if key not in found:
                found[key] = _read(pair, now)
            result = found[key]
            if isinstance(result, CertificateError):
                for path, message in result.faults:
                    _refuse(entry, (*way, "cert" if path == pair.cert else "key"), path, message)
        for way, path in _bundles(entry):
            if path not in bundles:
                bundles[path] = _fault(path)
            fault = bundles[path]
            if fault is not None:
                _refuse(entry, way, path, fault.message)
    return {key: result for key, result in found.items() if isinstance(result, Certificate)}


def _pairs(entry: Entry) -> Iterator[tuple[Way, CertificatePair]]:
    value: Listener | Service | None = entry.value
    if isinstance(value, Listener) and value.tls is not None:
        for place, pair in enumerate(value.tls.certificates):
            yield ("tls", "certificates", place), pair
    elif isinstance(value, Service) and value.tls.client_cert is not None:
        yield ("tls", "client_cert"), value.tls.client_cert


def _bundles(entry: Entry) -> Iterator[tuple[Way, str]]:
    value: Listener | Service | None = entry.value
    if isinstance(value, Listener) and value.tls is not None and value.tls.client_auth is not None:
        yield ("tls", "client_auth", "ca"), value.tls.client_auth.ca
    elif isinstance(value, Service) and value.tls.ca is not None:
        yield ("tls", "ca"), value.tls.ca


def _read(pair: CertificatePair, now: float | None) -> Certificate | CertificateError:
    try:
        return read_certificate(pair.cert, pair.key, now)
    except CertificateError as error:
        return error


def _fault(path: str) -> CertificateError | None:
    try:
        read_bundle(path)
    except CertificateError as error:
        return error
    return None


def _refuse(entry: Entry, way: Way, path: str, message: str) -> None:
    entry.document.refuse(find(entry.node, *way), f"{path}: {message}")
