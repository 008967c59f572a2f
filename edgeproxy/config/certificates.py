"""Certificates, keys and bundles of authorities: read from PEM files, and checked as a start needs them.

Rules: `now` is an argument (unix seconds; None: dates are not judged); every fault names the file and what to do;
nothing of a key is ever printed. `cryptography` is imported when the first certificate is read, and not before: most
runs of the command line have none. Where a fault stands in the configuration is `credentials.py`'s business.
"""
from __future__ import annotations

import binascii
import errno
import hashlib
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from edgeproxy.config.problem import printable, quoted
from edgeproxy.config.sources import in_words

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate as X509

SOON_DAYS = 14
"""Days before its end from which on a certificate is worth a warning."""
DAY = 86400.0
_LARGEST = 4 << 20
"""Bytes of one file; a bundle of all public authorities has about 220 KiB."""
_LEAST_RSA = 2048
_WEAK = ("md5", "sha1")
_NAME = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?")


@dataclass(frozen=True, slots=True)
class Certificate:
    """One pair of files as read; all that a handshake, a log line or a warning needs of it."""

    cert: str
    key: str
    """Paths."""
    names: tuple[str, ...]
    """Of subjectAltName (names, then addresses), else the common name; lower case."""
    not_before: float
    not_after: float
    """Unix seconds."""
    key_type: str
    """`ecdsa`, `rsa`, `ed25519` or `ed448`."""
    fingerprint: str
    """SHA-256 of the certificate (DER), in hex."""
    chain_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)
    key_mode: int = 0o600
    """Permission bits of the key's file."""
    chain_end: float = 0.0
    """Unix seconds when the first of the other certificates in the file ends; 0: there is none."""

    def days_left(self, now: float) -> int:
        """Whole days, 0 on the last one."""
        return int(max(0.0, self.not_after - now) // DAY)


class CertificateError(Exception):
    """What is wrong with a pair or a bundle: for each file at most one fault, in words for the user."""

    def __init__(self, path: str, message: str, *more: tuple[str, str]) -> None:
        super().__init__(path, message, *more)
        self.faults: tuple[tuple[str, str], ...] = ((path, message), *more)
        """(path, message)"""

    @property
    def path(self) -> str:
        return self.faults[0][0]

    @property
    def message(self) -> str:
        return self.faults[0][1]

    def __str__(self) -> str:
        return "; ".join(f"{path}: {message}" for path, message in self.faults)


def read_certificate(cert_path: str, key_path: str, now: float | None) -> Certificate:
    """Raises CertificateError."""
    faults: list[tuple[str, str]] = []
    chain: list[X509] = []
    key: PrivateKeyTypes | None = None
    chain_pem = key_pem = b""
    names: tuple[str, ...] = ()
    mode = 0
    try:
        chain_pem, _ = _contents(cert_path, '; "edgeproxy cert self-signed" makes a pair to try with')
        chain = _chain(cert_path, chain_pem)
        with _unwarned():
            names = _examined(cert_path, chain, now)
    except CertificateError as error:
        faults += error.faults
    try:
        key_pem, mode = _contents(key_path)
        key = _key(key_path, key_pem)
    except CertificateError as error:
        faults += error.faults
    if not faults and key is not None:
        faults += _mismatch(cert_path, key_path, chain, key)
    elif len(faults) == 2 and _holds_key(chain_pem) and b"-----BEGIN CERTIFICATE-----" in key_pem:
        faults = [(cert_path, "this is the private key, and the other file the certificate: cert and key are swapped")]
    if faults or key is None:
        raise CertificateError(*faults[0], *faults[1:])
    leaf = chain[0]
    ends = [other.not_valid_after_utc.timestamp() for other in chain[1:]]
    return Certificate(
        cert_path, key_path, names, leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp(),
        _key_type(key), _fingerprint(chain_pem), chain_pem, key_pem, mode, min(ends, default=0.0))


def read_bundle(path: str) -> int:
    """How many certificates of authorities are in it. Raises CertificateError."""
    data, _ = _contents(path)
    return len(_chain(path, data))


def cautions(certificate: Certificate, now: float | None) -> list[str]:
    """What is allowed but probably not meant, each in words for the user."""
    found = []
    if now is not None and certificate.not_after - now < SOON_DAYS * DAY:
        found.append(f"the certificate {certificate.cert} expires {in_days(certificate.days_left(now))}: renew it")
    if now is not None and certificate.chain_end and certificate.chain_end < now:
        found.append(f"a certificate further down in {certificate.cert} has expired: clients that need it refuse the "
                     "whole chain")
    if certificate.key_mode & stat.S_IROTH:
        found.append(f"every user of this machine may read the key {certificate.key}: chmod 600, or 640 with the "
                     "proxy's group")
    return found


def in_days(days: int) -> str:
    return "in less than a day" if days < 1 else "in 1 day" if days == 1 else f"in {days} days"


# files

def _contents(path: str, advice: str = "") -> tuple[bytes, int]:
    """Text of a file and its permission bits. A pipe is not waited for. `advice`: what to do if there is none."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise CertificateError(path, _unreadable(error, advice)) from None
    try:
        status = os.fstat(number)
        if stat.S_ISDIR(status.st_mode):
            raise CertificateError(path, "this is a directory; name the file in it")
        if not stat.S_ISREG(status.st_mode):
            raise CertificateError(path, "this is not a regular file")
        if status.st_size > _LARGEST:
            raise CertificateError(path, f"a file of certificates has at most {_LARGEST >> 20} MiB")
        return os.read(number, status.st_size), stat.S_IMODE(status.st_mode)
    except OSError as error:
        raise CertificateError(path, _unreadable(error)) from None
    finally:
        os.close(number)


def _unreadable(error: OSError | ValueError, advice: str = "") -> str:
    if not isinstance(error, OSError):
        return "this is not the name of a file"
    if error.errno == errno.ENOENT:
        return f"no such file{advice}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "permission denied: the proxy's user may not read it (or may not enter its directory)"
    return in_words(error)


# certificates

def _chain(path: str, data: bytes) -> list[X509]:
    from cryptography import x509

    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise CertificateError(path, _no_certificate(path, data))
    try:
        with _unwarned():
            return x509.load_pem_x509_certificates(data)
    except (ValueError, x509.InvalidVersion) as error:
        raise CertificateError(path, f"a certificate in it is damaged, get a new copy ({_short(error)})") from None


def _no_certificate(path: str, data: bytes) -> str:
    if not data.strip():
        return "this file is empty"
    if _holds_key(data):
        return "there is a private key in it, but no certificate; is it the file for key?"
    if b"-----BEGIN CERTIFICATE REQUEST-----" in data or b"-----BEGIN NEW CERTIFICATE REQUEST-----" in data:
        return "this is a request for a certificate; the authority answers it with the certificate"
    if b"-----BEGIN TRUSTED CERTIFICATE-----" in data:
        return f"this is OpenSSL's own form; convert it: openssl x509 -in {path} -out {_other(path)}"
    if b"-----BEGIN PKCS7-----" in data:
        return f"this is PKCS #7; convert it: openssl pkcs7 -print_certs -in {path} -out {_other(path)}"
    if data[:1] == b"\x30":
        return _binary(path, "openssl x509 -inform der", data)
    return "there is no certificate in it; PEM is expected, a text with -----BEGIN CERTIFICATE-----"


def _binary(path: str, command: str, data: bytes) -> str:
    """DER in words; PKCS #12 begins with its version, 3."""
    if re.match(rb"\x30(?:[\x00-\x7f]|\x81.|\x82..|\x83...|\x80)\x02\x01\x03", data, re.DOTALL):
        return (f"this is PKCS #12 (.p12, .pfx), not PEM; convert it: openssl pkcs12 -in {path} -nodes "
                f"-out {_other(path)}, and use the result for cert and for key")
    return f"this is DER, not PEM; convert it: {command} -in {path} -out {_other(path)}"


def _other(path: str) -> str:
    return os.path.splitext(path)[0] + ".pem"


def _examined(path: str, chain: list[X509], now: float | None) -> tuple[str, ...]:
    """The names, if nothing is wrong with the chain. Much of a certificate is parsed only when it is asked for."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        _check_chain(path, chain, now)
        return _names(chain[0])
    except (ValueError, KeyError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension,
            x509.UnsupportedGeneralNameType) as error:
        raise CertificateError(path, f"a certificate in it is damaged, get a new copy ({_short(error)})") from None


def _check_chain(path: str, chain: list[X509], now: float | None) -> None:
    leaf = chain[0]
    if now is not None and leaf.not_valid_after_utc.timestamp() <= now:
        days = int((now - leaf.not_valid_after_utc.timestamp()) // DAY)
        ago = "today" if days < 1 else "yesterday" if days == 1 else f"{days} days ago"
        raise CertificateError(path, f"the certificate expired {ago}, on {_date(leaf.not_valid_after_utc)}; renew it")
    if now is not None and leaf.not_valid_before_utc.timestamp() > now:
        raise CertificateError(path, f"the certificate is valid only from {_date(leaf.not_valid_before_utc)} on; "
                                     "is this machine's clock right?")
    for place, one in enumerate(chain, 1):
        digest = one.signature_hash_algorithm
        if digest is not None and digest.name in _WEAK and one.issuer != one.subject:
            which = f"certificate {place} of the chain" if place > 1 else "the certificate"
            raise CertificateError(path, f"{which} is signed with {digest.name.upper()}, which clients refuse; "
                                         "get a new one")
    if chain[1:]:
        _check_order(path, chain)


def _check_order(path: str, chain: list[X509]) -> None:
    """Each certificate is signed by the next (RFC 5246 §7.4.2; most clients sort for themselves, some do not)."""
    for place, (one, signer) in enumerate(zip(chain, chain[1:], strict=False), 1):
        if _signed(one, signer):
            continue
        if one == signer:
            why = "is there twice; remove one of the two"
        elif one.issuer == one.subject:
            why = "signed itself, so nothing follows it: the server's own certificate comes first, then its signers"
        else:
            why = f"is not signed by the next one, {_subject(signer)}; its signer is {_name_of(one.issuer)}"
            real = next((other for other, x in enumerate(chain, 1) if x is not one and _signed(one, x)), 0)
            why += f", which is certificate {real} here" if real else ", which is missing here"
        raise CertificateError(path, f"the order of the chain is wrong: certificate {place}, {_subject(one)}, {why}")


def _signed(one: X509, signer: X509) -> bool:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        one.verify_directly_issued_by(signer)
    except (InvalidSignature, ValueError, TypeError):  # ValueError: not even the names agree
        return False
    except UnsupportedAlgorithm:
        return True  # the names agree; more cannot be said
    return True


def _names(leaf: X509) -> tuple[str, ...]:
    from cryptography import x509

    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        common = [str(one.value).lower() for one in leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
        return tuple(name for name in common if _NAME.fullmatch(name))
    hosts = [host.lower().removesuffix(".") for host in names.get_values_for_type(x509.DNSName)]
    found = dict.fromkeys(host for host in hosts if _NAME.fullmatch(host))  # what else there is fits no host
    found.update(dict.fromkeys(str(address) for address in names.get_values_for_type(x509.IPAddress)))
    return tuple(found)


def _fingerprint(pem: bytes) -> str:
    """Of the first certificate, which was parsed before; from its text: to write the DER anew costs ten times that."""
    text = pem.partition(b"-----BEGIN CERTIFICATE-----")[2].partition(b"-----END CERTIFICATE-----")[0]
    return hashlib.sha256(binascii.a2b_base64(text)).hexdigest()


def _subject(one: X509) -> str:
    return _name_of(one.subject)


def _name_of(name: Any) -> str:
    from cryptography import x509

    common = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return quoted(str(common[0].value) if common else name.rfc4514_string())


def _date(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


# keys

def _holds_key(data: bytes) -> bool:
    return b"PRIVATE KEY-----" in data


def _key(path: str, data: bytes) -> PrivateKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if not _holds_key(data):
        raise CertificateError(path, _no_key(path, data))
    if b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in data or b"Proc-Type: 4,ENCRYPTED" in data:
        raise CertificateError(path, "the key is encrypted, and nobody could type the passphrase at a start; write one "
                                     f"without: openssl pkey -in {path} -out {_other(path)}, and chmod 600")
    try:
        # The check of RSA's primes takes up to a second for each key; that it belongs to the certificate is checked.
        return load_pem_private_key(_only_key(data), None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(path, f"the private key cannot be read, get a new copy ({_short(error)})") from None


def _only_key(data: bytes) -> bytes:
    """Without what may stand before the key: OpenSSL's EC PARAMETERS, or the certificates of a joint file."""
    begin = data.find(b"PRIVATE KEY-----")
    return data[data.rfind(b"-----BEGIN", 0, begin):]


def _no_key(path: str, data: bytes) -> str:
    if not data.strip():
        return "this file is empty"
    if b"-----BEGIN PUBLIC KEY-----" in data:
        return "this is the public key; the private one is needed"
    if b"-----BEGIN CERTIFICATE" in data:
        return "there is a certificate in it, but no private key; is it the file for cert?"
    if data[:1] == b"\x30":
        return _binary(path, "openssl pkey -inform der", data)
    return "there is no private key in it; PEM is expected, a text with -----BEGIN PRIVATE KEY-----"


def _mismatch(cert_path: str, key_path: str, chain: list[X509], key: PrivateKeyTypes) -> Iterator[tuple[str, str]]:
    from cryptography.exceptions import UnsupportedAlgorithm

    public = key.public_key()
    try:
        if chain[0].public_key() != public:
            place = next((n for n, other in enumerate(chain[1:], 2) if other.public_key() == public), 0)
            if place:
                yield cert_path, (f"the key {key_path} belongs to certificate {place} in this file; the server's own "
                                  "certificate comes first, then its signers")
            else:
                yield key_path, f"this key does not belong to the certificate {cert_path}; which of the two is old?"
            return
    except (ValueError, UnsupportedAlgorithm) as error:
        yield cert_path, f"the certificate has a key of an unknown kind ({_short(error)})"
        return
    if _key_type(key) not in ("ecdsa", "rsa", "ed25519", "ed448"):
        yield key_path, "TLS has no use for a key of this kind; use ECDSA or RSA"
    elif _key_type(key) == "rsa" and (bits := cast(Any, key).key_size) < _LEAST_RSA:
        yield key_path, f"an RSA key of {bits} bits is too weak; use ECDSA, or RSA with at least {_LEAST_RSA}"


def _key_type(key: PrivateKeyTypes) -> str:
    """From the name of its class: a chain of isinstance would import every kind of key."""
    word = type(key).__name__.lower()
    for kind, name in (("ecprivate", "ecdsa"), ("ellipticcurve", "ecdsa"), ("rsa", "rsa"), ("ed25519", "ed25519"),
                       ("ed448", "ed448")):
        if kind in word:
            return name
    return word


@contextmanager
def _unwarned() -> Iterator[None]:
    """Warnings about oddities of certificates would be printed with lines of our source, to somebody who cannot act."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _short(error: Exception) -> str:
    return printable(" ".join(str(error).split())[:100]) or type(error).__name__
