"""Which certificate is shown for which name: exact, wildcard, default, none; ECDSA beside RSA; who is asked is openssl."""
from __future__ import annotations

import pytest

from e2e.backends import Nginx
from e2e.certs import Authority
from e2e.program import StartEdge, free_port
from e2e.tlspeers import Said, client_context, connect_tls, s_client, secure, shown


def ask(port: int, authority: Authority, name: str, *options: str) -> Said:
    names = ("-servername", name) if name else ("-noservername",)
    return s_client(port, *names, "-CAfile", str(authority.pem), *options)


def subject(said: Said) -> str:
    return said.find(r"^subject=CN = (\S+)")


@pytest.mark.parametrize(("name", "expected"), [
    ("exact.sni.test", "exact.sni.test"),
    ("EXACT.sni.TEST", "exact.sni.test"),
    ("other.sni.test", "*.sni.test"),
    ("second.test", "first.test"),
    ("unknown.test", "default.test"),
    ("two.labels.sni.test", "default.test"),
    ("sni.test", "default.test"),
    ("", "default.test"),
])
def test_the_most_specific_name_wins(edge: StartEdge, nginx: Nginx, authority: Authority, name: str,
                                     expected: str) -> None:
    port = free_port()
    default = authority.server("default.test")
    pairs = [authority.server("*.sni.test"), authority.server("exact.sni.test"),
             authority.server("first.test", "second.test"), default]
    edge(secure(port, pairs, nginx["a"], tls=f"default: '{default.cert}'"))
    said = ask(port, authority, name)
    assert subject(said) == expected, said.text
    assert said.find(r"^(Verification: OK|Verify return code: 0 \(ok\))"), said.text


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("name", ["unknown.test", ""])
def test_without_a_default_it_is_refused(edge: StartEdge, nginx: Nginx, authority: Authority, name: str,
                                         version: str) -> None:
    port = free_port()
    edge(secure(port, [authority.server("exact.sni.test")], nginx["a"]))
    said = ask(port, authority, name, version)
    assert "unrecognized name" in said.text and "SSL alert number 112" in said.text, said.text
    assert "no peer certificate available" in said.text
    assert subject(ask(port, authority, "exact.sni.test", version)) == "exact.sni.test", "others go on"


@pytest.mark.parametrize(("algorithms", "kind"), [
    ("ecdsa_secp256r1_sha256", "id-ecPublicKey"), ("rsa_pss_rsae_sha256:rsa_pkcs1_sha256", "rsaEncryption")])
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_ecdsa_and_rsa_side_by_side(edge: StartEdge, nginx: Nginx, authority: Authority, algorithms: str, kind: str,
                                    version: str) -> None:
    port = free_port()
    edge(secure(port, [authority.server("both.test", rsa_key=True), authority.server("both.test")], nginx["a"]))
    said = ask(port, authority, "both.test", "-sigalgs", algorithms, version, "-showcerts")
    assert said.find(r"^(Verification: OK)"), said.text
    key = "ECDSA|EC" if kind == "id-ecPublicKey" else "RSA"
    assert said.find(rf"^Peer signature type: .*({key})"), said.text
    assert f"PKEY: {kind}" in said.text


def test_a_thousand_names(edge: StartEdge, nginx: Nginx, authority: Authority, long: bool) -> None:
    """Found as fast as one: see the benchmark; here only that each gets its own."""
    many = authority.many(10_000 if long else 500, "many.sni.test")
    port = free_port()
    edge(secure(port, [pair for _, pair in many], nginx["a"]))
    context = client_context(authority)
    for name, pair in many[::len(many) // 20]:
        with connect_tls(port, context, name) as wire:
            assert shown(wire) == pair.serial


def test_a_trailing_dot_is_the_same_name(edge: StartEdge, nginx: Nginx, authority: Authority) -> None:
    port = free_port()
    edge(secure(port, [authority.server("one.test"), authority.server("two.test")], nginx["a"]))
    assert subject(ask(port, authority, "two.test.")) == "two.test"
