"""Certificates, keys and bundles read from files: what is in them, and what a user is told when they will not do."""
from __future__ import annotations

import base64
import hashlib
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, pkcs12
from pems import DAY, NOW, Pem, key, pem

from edgeproxy.config.certificates import CertificateError, cautions, read_bundle, read_certificate

SITE = pem("Site.example", "*.site.example", "10.0.0.1", "::1")
CA = pem(cn="an authority", number=1)
MIDDLE = pem(cn="in the middle", number=2, by=CA)
LEAF = pem("leaf.example", number=3, by=MIDDLE)


def fault(cert: str | Path, key_path: str | Path, now: float | None = NOW) -> str:
    """Without the folder."""
    with pytest.raises(CertificateError) as error:
        read_certificate(str(cert), str(key_path), now)
    return str(error.value).replace(str(Path(cert).parent), "").replace("/", "")


def said(folder: Path, cert: bytes, key_text: bytes, now: float | None = NOW) -> str:
    (folder / "c").write_bytes(cert)
    (folder / "k").write_bytes(key_text)
    return fault(folder / "c", folder / "k", now)


def test_what_is_read(tmp_path: Path) -> None:
    cert, secret = SITE.write(tmp_path, "site")
    found = read_certificate(cert, secret, NOW)
    assert (found.cert, found.key) == (cert, secret)
    assert found.names == ("site.example", "*.site.example", "10.0.0.1", "::1")
    assert (found.not_before, found.not_after) == (NOW - DAY, NOW + 90 * DAY)
    assert found.key_type == "ecdsa" and found.fingerprint == hashlib.sha256(SITE.der).hexdigest()
    assert (found.chain_pem, found.key_pem) == (SITE.cert, SITE.key())
    assert "PRIVATE" not in repr(found)
    assert [found.days_left(NOW + n * DAY) for n in (0, 89.5, 90, 91)] == [90, 0, 0, 0]


@pytest.mark.parametrize(("kind", "word"), [("rsa", "rsa"), ("ed25519", "ed25519"), ("ec", "ecdsa")])
def test_kinds_of_keys(tmp_path: Path, kind: str, word: str) -> None:
    assert read_certificate(*pem("a.example", kind=kind).write(tmp_path, "a"), NOW).key_type == word


def test_the_common_name_counts_only_without_alternatives(tmp_path: Path) -> None:
    def names(made: Pem) -> tuple[str, ...]:
        return read_certificate(*made.write(tmp_path, "a"), NOW).names
    assert names(pem(cn="A.example")) == ("a.example",)
    assert names(pem("b.example", cn="a.example")) == ("b.example",)
    assert names(pem(cn="My Company & Sons")) == ()
    assert names(pem("a.example", "A.EXAMPLE", "b.example.", cn="a.example")) == ("a.example", "b.example")


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
@pytest.mark.parametrize("before", [b"", b"Bag Attributes\n  friendlyName: x\n", SITE.cert,
                                    b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"])
def test_forms_of_a_key(tmp_path: Path, form: str, before: bytes) -> None:
    cert, secret = SITE.write(tmp_path, "a")
    Path(secret).write_bytes(before + SITE.key(form))
    assert read_certificate(cert, secret, NOW).key_type == "ecdsa"


def test_one_file_may_be_both(tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(SITE.key() + SITE.cert)
    assert read_certificate(str(both), str(both), NOW).names[0] == "site.example"


def test_dates(tmp_path: Path) -> None:
    cert, secret = SITE.write(tmp_path, "a")
    assert fault(cert, secret, NOW + 90 * DAY) == (
        "a.crt: the certificate expired today, on 2027-04-15 08:00 UTC; renew it")
    assert "expired yesterday," in fault(cert, secret, NOW + 91.5 * DAY)
    assert "expired 10 days ago," in fault(cert, secret, NOW + 100 * DAY)
    assert fault(cert, secret, NOW - 2 * DAY) == (
        "a.crt: the certificate is valid only from 2027-01-14 08:00 UTC on; is this machine's clock right?")
    assert read_certificate(cert, secret, None).names, "without a clock no date is judged"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    cert, secret = SITE.write(tmp_path, "a")
    assert fault(tmp_path / "no.crt", tmp_path / "no.key") == (
        'no.crt: no such file; "edgeproxy cert self-signed" makes a pair to try with; no.key: no such file')
    assert fault(cert, tmp_path).endswith(": this is a directory; name the file in it")
    os.mkfifo(tmp_path / "pipe")
    assert fault(tmp_path / "pipe", secret) == "pipe: this is not a regular file"
    (tmp_path / "large").write_bytes(b"x" * ((4 << 20) + 1))
    assert fault(tmp_path / "large", secret) == "large: a file of certificates has at most 4 MiB"
    assert fault("nul\0", secret).startswith("nul\0: this is not the name of a file")


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    cert, secret = SITE.write(tmp_path, "a")
    os.chmod(secret, 0)
    assert fault(cert, secret) == "a.key: permission denied: the proxy's user may not read it (or may not enter its directory)"


def test_no_permission_for_whoever_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(CertificateError) as error:
        read_bundle("/x")
    assert str(error.value) == "/x: permission denied: the proxy's user may not read it (or may not enter its directory)"


def request() -> bytes:
    name = x509.Name([])
    return x509.CertificateSigningRequestBuilder().subject_name(name).sign(key(), hashes.SHA256()).public_bytes(Encoding.PEM)


PUBLIC = key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(("cert", "secret", "message"), [
    (b"", SITE.key(), "c: this file is empty"),
    (SITE.cert, b" \n", "k: this file is empty"),
    (b"hello", SITE.key(), "c: there is no certificate in it; PEM is expected, a text with -----BEGIN CERTIFICATE-----"),
    (SITE.cert, b"hello", "k: there is no private key in it; PEM is expected, a text with -----BEGIN PRIVATE KEY-----"),
    (SITE.der, SITE.key(), "c: this is DER, not PEM; convert it: openssl x509 -inform der -in c -out c.pem"),
    (SITE.cert, SITE.key(encoding="DER"),
     "k: this is DER, not PEM; convert it: openssl pkey -inform der -in k -out k.pem"),
    (pkcs12.serialize_key_and_certificates(b"a", SITE.secret, SITE.made, None, NoEncryption()), SITE.key(),
     "c: this is PKCS #12 (.p12, .pfx), not PEM; convert it: openssl pkcs12 -in c -nodes -out c.pem, and use the result "
     "for cert and for key"),
    (SITE.key(), SITE.cert, "c: this is the private key, and the other file the certificate: cert and key are swapped"),
    (SITE.key(), SITE.key(), "c: there is a private key in it, but no certificate; is it the file for key?"),
    (SITE.cert, SITE.cert, "k: there is a certificate in it, but no private key; is it the file for cert?"),
    (request(), SITE.key(), "c: this is a request for a certificate; the authority answers it with the certificate"),
    (SITE.cert, PUBLIC, "k: this is the public key; the private one is needed"),
    (SITE.cert, SITE.key(passphrase=b"x"),
     "k: the key is encrypted, and nobody could type the passphrase at a start; write one without: openssl pkey -in k "
     "-out k.pem, and chmod 600"),
    (SITE.cert, SITE.key("TraditionalOpenSSL", b"x"),
     "k: the key is encrypted, and nobody could type the passphrase at a start; write one without: openssl pkey -in k "
     "-out k.pem, and chmod 600"),
    (SITE.cert, CA.key(), "k: this key does not belong to the certificate c; which of the two is old?"),
    (SITE.cert, pem(kind="rsa", cn="a").key(), "k: this key does not belong to the certificate c; which of the two is old?"),
    (LEAF.cert + MIDDLE.cert, MIDDLE.key(),
     "c: the key k belongs to certificate 2 in this file; the server's own certificate comes first, then its signers"),
    (b"-----BEGIN PKCS7-----\nMIIB\n-----END PKCS7-----\n", SITE.key(),
     "c: this is PKCS #7; convert it: openssl pkcs7 -print_certs -in c -out c.pem"),
])
def test_what_will_not_do(tmp_path: Path, cert: bytes, secret: bytes, message: str) -> None:
    assert said(tmp_path, cert, secret) == message.replace("/", "")


def test_damaged_files(tmp_path: Path) -> None:
    assert said(tmp_path, SITE.cert[:200] + b"\n-----END CERTIFICATE-----\n", SITE.key()).startswith(
        "c: a certificate in it is damaged, get a new copy (")
    assert said(tmp_path, SITE.cert, SITE.key()[:100] + b"\n-----END PRIVATE KEY-----\n").startswith(
        "k: the private key cannot be read, get a new copy (")
    assert said(tmp_path, SITE.cert[:-30], SITE.key()).startswith("c: a certificate in it is damaged")


def test_every_prefix_of_the_files_is_read_or_refused(tmp_path: Path) -> None:
    cert, secret = SITE.write(tmp_path, "a")
    for text, path in ((SITE.cert, cert), (SITE.key(), secret)):
        for end in range(0, len(text), 7):
            Path(path).write_bytes(text[:end])
            with pytest.raises(CertificateError):
                read_certificate(cert, secret, NOW)
        Path(path).write_bytes(text)


@pytest.mark.parametrize("chain", [b"", MIDDLE.cert], ids=["alone", "with its signer"])
def test_any_byte_changed_is_read_or_refused(tmp_path: Path, chain: bytes) -> None:
    """And what is read prints on one line."""
    cert, secret = LEAF.write(tmp_path, "a")
    for place in range(len(LEAF.der)):
        for value in (0x0A, LEAF.der[place] ^ 1):
            der = LEAF.der[:place] + bytes((value,)) + LEAF.der[place + 1:]
            lines = base64.encodebytes(der)
            Path(cert).write_bytes(b"-----BEGIN CERTIFICATE-----\n" + lines + b"-----END CERTIFICATE-----\n" + chain)
            try:
                said = repr(read_certificate(cert, secret, NOW))
            except CertificateError as error:
                said = str(error)
            assert said.isprintable()


@pytest.mark.parametrize(("chain", "message"), [
    ((LEAF, CA), 'certificate 1, "leaf.example", is not signed by the next one, "an authority"; its signer is '
                 '"in the middle", which is missing here'),
    ((LEAF, CA, MIDDLE), 'certificate 1, "leaf.example", is not signed by the next one, "an authority"; its signer is '
                         '"in the middle", which is certificate 3 here'),
    ((LEAF, LEAF, MIDDLE), 'certificate 1, "leaf.example", is there twice; remove one of the two'),
    ((LEAF, MIDDLE, CA, SITE), 'certificate 3, "an authority", signed itself, so nothing follows it: the server\'s own '
                               "certificate comes first, then its signers"),
    ((CA, MIDDLE, LEAF), 'certificate 1, "an authority", signed itself, so nothing follows it: the server\'s own '
                         "certificate comes first, then its signers"),
])
def test_the_order_of_a_chain(tmp_path: Path, chain: tuple[Pem, ...], message: str) -> None:
    told = said(tmp_path, b"".join(one.cert for one in chain), chain[0].key())
    assert told == f"c: the order of the chain is wrong: {message}"


@pytest.mark.parametrize("chain", [(LEAF,), (LEAF, MIDDLE), (LEAF, MIDDLE, CA)])
def test_good_chains(tmp_path: Path, chain: tuple[Pem, ...]) -> None:
    found = read_certificate(*LEAF.write(tmp_path, "a", *chain[1:]), NOW)
    assert found.chain_end == (NOW + 90 * DAY if chain[1:] else 0)
    assert found.chain_pem.count(b"BEGIN CERT") == len(chain)


def test_a_signer_of_the_same_name_that_is_another_one(tmp_path: Path) -> None:
    impostor = pem(cn="in the middle", number=9, by=CA)
    assert "is not signed by the next one" in said(tmp_path, LEAF.cert + impostor.cert, LEAF.key())


def test_what_openssl_would_refuse_later(tmp_path: Path) -> None:
    weak = pem("a.example", kind="rsa1024")
    assert said(tmp_path, weak.cert, weak.key()) == (
        "k: an RSA key of 1024 bits is too weak; use ECDSA, or RSA with at least 2048")


def test_a_signature_that_clients_refuse(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl")
    CA.write(tmp_path, "ca")
    (tmp_path / "csr").write_bytes(request())
    subprocess.run([openssl, "x509", "-req", "-sha1", "-in", "csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-out", "old.crt",
                    "-set_serial", "7"],
                   cwd=tmp_path, check=True, capture_output=True)
    for chain in (b"", CA.cert):
        assert said(tmp_path, (tmp_path / "old.crt").read_bytes() + chain, key().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), None) == (
            "c: the certificate is signed with SHA1, which clients refuse; get a new one")


def test_cautions(tmp_path: Path) -> None:
    cert, secret = SITE.write(tmp_path, "a")

    def told(now: float | None) -> list[str]:
        found = cautions(read_certificate(cert, secret, None), now)
        return [caution.replace(f"{tmp_path}/", "") for caution in found]
    assert told(NOW) == told(NOW + 75 * DAY) == told(None) == []
    assert told(NOW + 77 * DAY) == ["the certificate a.crt expires in 13 days: renew it"]
    assert told(NOW + 88.5 * DAY) == ["the certificate a.crt expires in 1 day: renew it"]
    assert told(NOW + 89.5 * DAY) == ["the certificate a.crt expires in less than a day: renew it"]
    for mode, caution in ((0o644, True), (0o604, True), (0o640, False), (0o400, False)):
        os.chmod(secret, mode)
        assert stat.S_IMODE(os.stat(secret).st_mode) == mode
        assert told(NOW) == ["every user of this machine may read the key a.key: chmod 600, or 640 with the proxy's "
                             "group"] * caution


def test_a_chain_whose_signer_has_expired(tmp_path: Path) -> None:
    old = pem(cn="in the middle", number=2, by=CA, days=-0.5)
    found = read_certificate(*LEAF.write(tmp_path, "a", old), NOW)
    assert [caution.split(": ")[0] for caution in cautions(found, NOW)] == [
        f"a certificate further down in {tmp_path}/a.crt has expired"]


def test_bundles(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(b"# ours\n" + CA.cert + MIDDLE.cert)
    assert read_bundle(str(bundle)) == 2
    for text, message in ((b"", "this file is empty"), (CA.der, "this is DER, not PEM"),
                          (b"# nothing yet\n", "there is no certificate in it")):
        bundle.write_bytes(text)
        with pytest.raises(CertificateError) as error:
            read_bundle(str(bundle))
        assert error.value.path == str(bundle) and error.value.message.startswith(message)
