"""Certificates for tests and benchmarks, made by `cryptography`: an authority, servers, clients, expired ones, thousands.

Everything is a file in the folder that was given; an authority makes the same certificate only once. Nothing here knows
of the proxy or of the other modules of the harness.
"""
from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_DAY = datetime.timedelta(days=1)
_HOUR = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Pair:
    """The files of one certificate and its key, in PEM."""

    cert: Path
    key: Path

    @property
    def yaml(self) -> str:
        """As an item of `certificates`."""
        return f"{{cert: '{self.cert}', key: '{self.key}'}}"

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.cert.read_bytes())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate in hexadecimal."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def serial(self) -> int:
        return self.certificate.serial_number

    def replace(self, other: Pair) -> None:
        """The other's content under the names of this one, each file by one rename: as a renewal does it."""
        for ours, theirs in ((self.key, other.key), (self.cert, other.cert)):
            temporary = ours.with_suffix(".new")
            temporary.write_bytes(theirs.read_bytes())
            temporary.chmod(0o600)
            temporary.replace(ours)


class Authority:
    """Whoever trusts `pem` trusts what it signs."""

    def __init__(self, folder: Path, name: str = "edgeproxy tests") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.name = name
        self.pem = folder / "ca.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = _called(name)
        self._numbers = count(1)
        self._made: dict[tuple[object, ...], Pair] = {}
        now = _now()
        authority = (x509.CertificateBuilder().subject_name(self._subject).issuer_name(self._subject)
                     .public_key(self._key.public_key()).serial_number(x509.random_serial_number())
                     .not_valid_before(now - 2 * 365 * _DAY).not_valid_after(now + 3650 * _DAY)
                     .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
                     .add_extension(_usage(signing=True), critical=True)
                     .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
                     .sign(self._key, hashes.SHA256()))
        self.pem.write_bytes(authority.public_bytes(serialization.Encoding.PEM))

    def server(self, *names: str, rsa_key: bool = False, days: float = 60) -> Pair:
        """For these names, each a host name, a `*.` wildcard or an address; the first one is its CN too."""
        return self._once("server", names, rsa_key, days)

    def fresh(self, *names: str, days: float = 60) -> Pair:
        """The same, but another one each time: a renewed certificate."""
        return self._make("server", names, _key(False), days)

    def expired(self, *names: str) -> Pair:
        return self._once("server", names, False, -1)

    def client(self, name: str, days: float = 60) -> Pair:
        """What a client shows, with that CN."""
        return self._once("client", (name,), False, days)

    def many(self, number: int, domain: str = "many.test") -> list[tuple[str, Pair]]:
        """(name, certificate) `number` times, quickly: they share one key."""
        key = ec.generate_private_key(ec.SECP256R1())
        key_file = self.folder / "many.key"
        _write_key(key_file, key)
        return [(f"h{n:05}.{domain}", self._make("server", (f"h{n:05}.{domain}",), key, 60, key_file))
                for n in range(number)]

    def _once(self, use: str, names: tuple[str, ...], rsa_key: bool, days: float) -> Pair:
        wanted = (use, names, rsa_key, days)
        if wanted not in self._made:
            self._made[wanted] = self._make(use, names, _key(rsa_key), days)
        return self._made[wanted]

    def _make(self, use: str, names: tuple[str, ...], key: PrivateKey, days: float,
              key_file: Path | None = None) -> Pair:
        number = next(self._numbers)
        file = self.folder / f"{number:05}-{names[0].replace('*', 'any').replace(':', '-')}.crt"
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        served = ExtendedKeyUsageOID.SERVER_AUTH if use == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
        now = _now()
        builder = (x509.CertificateBuilder().subject_name(_called(names[0])).issuer_name(self._subject)
                   .public_key(key.public_key()).serial_number(x509.random_serial_number())
                   .not_valid_before(min(now, now + days * _DAY) - 30 * _DAY).not_valid_after(now + days * _DAY)
                   .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
                   .add_extension(_usage(signing=False), critical=True)
                   .add_extension(x509.ExtendedKeyUsage([served]), critical=False)
                   .add_extension(issuer, critical=False))
        if use == "server":
            builder = builder.add_extension(x509.SubjectAlternativeName(list(_alternatives(names))), critical=False)
        file.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        if key_file is None:
            key_file = file.with_suffix(".key")
            _write_key(key_file, key)
        return Pair(file, key_file)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key(rsa_key: bool) -> PrivateKey:
    return rsa.generate_private_key(65537, 2048) if rsa_key else ec.generate_private_key(ec.SECP256R1())


def _write_key(file: Path, key: PrivateKey) -> None:
    file.touch(0o600)
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                       serialization.NoEncryption()))


def _usage(signing: bool) -> x509.KeyUsage:
    return x509.KeyUsage(digital_signature=True, content_commitment=False, key_encipherment=not signing,
                         data_encipherment=False, key_agreement=False, key_cert_sign=signing, crl_sign=signing,
                         encipher_only=False, decipher_only=False)


def _alternatives(names: tuple[str, ...]) -> Iterator[x509.GeneralName]:
    for name in names:
        try:
            yield x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            yield x509.DNSName(name)
