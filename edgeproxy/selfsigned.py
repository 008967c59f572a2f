"""Self-signed certificates for trying things out: for `edgeproxy cert self-signed` and the demo.

Rules: ECDSA on P-256, names in subjectAltName, no authority (clients trust exactly this certificate or nothing). A key
is never readable by others, not for a moment, and nothing is overwritten unless asked for.
"""
from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgeproxy.config import addresses

if TYPE_CHECKING:
    from cryptography.x509 import GeneralName

_LONGEST_CN = 64


class Made(NamedTuple):
    """PEM texts."""

    cert: bytes
    key: bytes


class Files(NamedTuple):
    cert: Path
    key: Path


def host(text: str) -> str:
    """A name, `*.` and a name, or an IP address, as a certificate has it. Raises ValueError."""
    if text.startswith("**."):
        raise ValueError(f"a certificate's wildcard stands for one label; write {text[1:]}")
    try:
        return str(ip_address(text.strip("[]")))
    except ValueError:
        return addresses.host_pattern(text)


def make(hosts: Sequence[str], days: int, now: float) -> Made:
    """A certificate for these hosts (see `host`), from an hour before `now` (unix seconds) on, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    title = hosts[0] if len(hosts[0]) <= _LONGEST_CN else "edgeproxy self-signed"
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, title)])
    begin = datetime.fromtimestamp(int(now), UTC)
    usage = x509.KeyUsage(digital_signature=True, content_commitment=False, key_encipherment=False,
                          data_encipherment=False, key_agreement=False, key_cert_sign=False, crl_sign=False,
                          encipher_only=False, decipher_only=False)
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    cert = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin - timedelta(hours=1)).not_valid_after(begin + timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName([_general(one) for one in hosts]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(purposes, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(key, hashes.SHA256()))
    return Made(cert.public_bytes(serialization.Encoding.PEM),
                key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                  serialization.NoEncryption()))


def _general(one: str) -> GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(one))
    except ValueError:
        return x509.DNSName(one)


def write(folder: str | Path, hosts: Sequence[str], days: int, now: float, force: bool = False) -> Files:
    """Makes both files, called after the first host, and the folder. Raises OSError; without `force` if one exists too.
    """
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    stem = hosts[0].replace("*", "wildcard").replace(":", "-")
    files = Files(folder / f"{stem}.crt", folder / f"{stem}.key")
    there = next((path for path in files if os.path.lexists(path)), None)
    if there is not None and not force:
        raise FileExistsError(17, "this file exists already (--force makes it anew)", str(there))
    made = make(hosts, days, now)
    _put(files.key, made.key, 0o600, force)
    _put(files.cert, made.cert, 0o644, force)
    return files


def _put(path: Path, data: bytes, mode: int, force: bool) -> None:
    """By a rename, so that who reads sees the old or the new; without `force` only if nothing is there."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    try:
        if force:
            os.replace(draft, path)
        else:
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def yaml_lines(files: Files, hosts: Sequence[str]) -> list[str]:
    """What belongs into a listener of a configuration."""
    cert, key = (_scalar(str(path)) for path in files)
    lines = ["protocol: https", "tls:", "  certificates:", f"    - {{cert: {cert}, key: {key}}}"]
    if any(_is_address(one) for one in hosts):
        lines.append(f"  default: {cert}   # clients send no server name for an address")
    return lines


def _is_address(one: str) -> bool:
    try:
        ip_address(one)
    except ValueError:
        return False
    return True


def _scalar(text: str) -> str:
    """A path in YAML; in quotes unless it is surely a plain word."""
    if all(char.isalnum() or char in "/._-" for char in text):
        return text
    return "'" + text.replace("'", "''") + "'"
