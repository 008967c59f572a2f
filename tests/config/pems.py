"""Certificates for the tests of the configuration: made in memory at a fixed moment, written where a test wants them."""
from __future__ import annotations

import datetime
import functools
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

NOW = 1_800_000_000.0
"""2027-01-15 08:00 UTC"""
DAY = 86400.0
_BEGIN = datetime.datetime.fromtimestamp(NOW, datetime.UTC)


@functools.cache
def key(kind: str = "ec", number: int = 0) -> Any:
    """The same private key for the same arguments; RSA keys take a while."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if kind == "rsa1024":
        return rsa.generate_private_key(65537, 1024)  # noqa: S505
    return ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True)
class Pem:
    """A certificate with its key."""

    made: x509.Certificate
    secret: Any

    @property
    def cert(self) -> bytes:
        return self.made.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.made.public_bytes(serialization.Encoding.DER)

    def key(self, form: str = "PKCS8", passphrase: bytes = b"", encoding: str = "PEM") -> bytes:
        hidden = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        return self.secret.private_bytes(getattr(serialization.Encoding, encoding), getattr(serialization.PrivateFormat, form),
                                         hidden)

    def write(self, folder: Path, name: str, *chain: Pem) -> tuple[str, str]:
        """The paths of both files."""
        cert, secret = folder / f"{name}.crt", folder / f"{name}.key"
        cert.write_bytes(b"".join(one.cert for one in (self, *chain)))
        secret.touch(0o600)
        secret.write_bytes(self.key())
        return str(cert), str(secret)


def pem(*names: str, cn: str | None = None, days: float = 90, since: float = -1, kind: str = "ec", number: int = 0,
        by: Pem | None = None, digest: Any = None) -> Pem:
    """A certificate for these names, good from `since` to `days` days after NOW; self-signed, or signed `by` another."""
    secret = key(kind, number)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)] if cn is not None else [])
    if cn is None and names:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    builder = (x509.CertificateBuilder().subject_name(subject).issuer_name(by.made.subject if by else subject)
               .public_key(secret.public_key()).serial_number(1 + number)
               .not_valid_before(_BEGIN + datetime.timedelta(days=since))
               .not_valid_after(_BEGIN + datetime.timedelta(days=days)))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
    hashed = None if (by.secret if by else secret) is not None and kind == "ed25519" and not by else digest or hashes.SHA256()
    return Pem(builder.sign(by.secret if by else secret, hashed), secret)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
