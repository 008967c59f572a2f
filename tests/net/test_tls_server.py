"""Which certificates, which context and which refusal a ClientHello gets; what a renewal keeps."""
from __future__ import annotations

import dataclasses
import ssl
from pathlib import Path

import pytest

from e2e.certs import Authority, Pair
from edgeproxy.codec.clienthello import NO_APPLICATION_PROTOCOL, UNRECOGNIZED_NAME, ClientHello
from edgeproxy.config.certificates import Certificate, read_certificate
from edgeproxy.config.model import CertificatePair, ClientAuth, Config, Listener, ListenerTls
from edgeproxy.net.certificates import Site, TlsServer
from edgeproxy.snapshot import compile_rules, renew_rules


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def asks(sni: str, *alpn: str) -> ClientHello:
    hello = ClientHello(0x0304)
    hello.sni = sni
    hello.alpn = alpn
    return hello


class Files:
    """A listener's tls section, and what is in the files that it names."""

    def __init__(self, *pairs: Pair, default: Pair | None = None, client_auth: ClientAuth | None = None) -> None:
        named = tuple(CertificatePair(str(pair.cert), str(pair.key)) for pair in pairs)
        self.config = ListenerTls(named, str(default.cert) if default else None, client_auth=client_auth)
        self.read: dict[tuple[str, str], Certificate] = {
            (pair.cert, pair.key): read_certificate(pair.cert, pair.key, None) for pair in named}

    def server(self, before: TlsServer | None = None) -> TlsServer:
        return TlsServer(self.config, self.read, before)


def site(server: TlsServer, sni: str, *alpn: str) -> Site:
    choice = server.choose(asks(sni, *alpn))
    assert not isinstance(choice, int)
    return choice[0]


def names(found: Site) -> set[str]:
    return {Path(certificate.cert).name for certificate in found.certificates}


def test_the_most_specific_certificate_wins(authority: Authority) -> None:
    exact, wild, rest = (authority.server(n) for n in ("a.x.test", "*.x.test", "rest.test"))
    server = Files(wild, exact, rest, default=rest).server()
    assert names(site(server, "a.x.test")) == {exact.cert.name}
    assert names(site(server, "b.x.test")) == {wild.cert.name}
    for sni in ("", "x.test", "c.b.x.test", "else.test"):
        assert names(site(server, sni)) == {rest.cert.name}


def test_without_a_default_other_names_are_refused(authority: Authority) -> None:
    server = Files(authority.server("a.test")).server()
    assert server.choose(asks("b.test")) == UNRECOGNIZED_NAME
    assert server.choose(asks("")) == UNRECOGNIZED_NAME


def test_alpn_without_overlap_is_refused_and_no_alpn_is_not(authority: Authority) -> None:
    server = Files(authority.server("a.test")).server()
    assert server.choose(asks("a.test", "imap")) == NO_APPLICATION_PROTOCOL
    assert site(server, "a.test", "imap", "h2") is site(server, "a.test")


def test_two_kinds_of_key_for_a_name_are_offered_together(authority: Authority) -> None:
    ecdsa, rsa = authority.server("both.test"), authority.server("both.test", "rsa.test", rsa_key=True)
    server = Files(ecdsa, rsa, default=ecdsa).server()
    assert {c.key_type for c in site(server, "both.test").certificates} == {"ecdsa", "rsa"}
    assert {c.key_type for c in site(server, "rsa.test").certificates} == {"rsa"}
    assert {c.key_type for c in site(server, "unknown.test").certificates} == {"ecdsa", "rsa"}


def test_contexts_are_modern_and_one_for_each_set_of_certificates(authority: Authority) -> None:
    server = Files(authority.server("a.test", "b.test"), authority.server("c.test")).server()
    first, second, other = (server.choose(asks(n)) for n in ("a.test", "b.test", "c.test"))
    assert not isinstance(first, int) and not isinstance(second, int) and not isinstance(other, int)
    assert first[1] is second[1] and first[1] is not other[1]
    context = first[1]
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION and context.options & ssl.OP_CIPHER_SERVER_PREFERENCE
    ciphers = {c["name"] for c in context.get_ciphers() if c["protocol"] == "TLSv1.2"}
    assert len(ciphers) == 6 and all(name.startswith("ECDHE-") for name in ciphers)
    assert context.verify_mode is ssl.CERT_NONE


def test_client_certificates_are_asked_for_on_every_context(authority: Authority) -> None:
    auth = ClientAuth(str(authority.pem), "optional")
    server = Files(authority.server("a.test"), client_auth=auth).server()
    choice = server.choose(asks("a.test"))
    assert not isinstance(choice, int) and choice[1].verify_mode is ssl.CERT_OPTIONAL
    assert len(choice[1].get_ca_certs()) == 1


def test_a_connection_is_misdirected_only_if_there_is_a_right_one(authority: Authority) -> None:
    server = Files(authority.server("a.test", "*.w.test"), authority.server("b.test", "x.w.test"),
                   default=authority.server("a.test", "*.w.test")).server()
    shown = site(server, "a.test")
    assert not server.misdirected(shown, "a.test")
    assert not server.misdirected(shown, "y.w.test")
    assert not server.misdirected(shown, "x.w.test")  # its certificate says so, whatever else there is
    assert server.misdirected(shown, "b.test")
    assert not server.misdirected(shown, "unknown.test")  # no other connection would be better


def test_what_has_not_changed_keeps_its_context_and_so_its_tickets(authority: Authority) -> None:
    files = Files(authority.server("a.test"), authority.server("c.test"))
    server = files.server()
    kept, replaced = site(server, "a.test"), site(server, "c.test")
    fresh = authority.fresh("c.test")
    old = next(pair for pair in files.config.certificates if "c.test" in files.read[pair.cert, pair.key].names)
    read = read_certificate(str(fresh.cert), str(fresh.key), None)
    files.read[old.cert, old.key] = dataclasses.replace(read, cert=old.cert, key=old.key)
    after = files.server(server)
    assert site(after, "a.test") is kept and site(after, "c.test") is not replaced
    files.config = dataclasses.replace(files.config, min_version="1.3")
    strict = files.server(after)
    assert site(strict, "a.test") is not kept
    choice = strict.choose(asks("a.test"))
    assert not isinstance(choice, int) and choice[1].minimum_version is ssl.TLSVersion.TLSv1_3


def test_tickets_are_made_anew_when_that_is_asked_for(authority: Authority) -> None:
    files = Files(authority.server("a.test"))
    listener = Listener("web", (), "https", tls=files.config)
    config = Config({"web": listener}, certificates=files.read)
    rules = compile_rules(config)
    kept, fresh = renew_rules(config, rules), renew_rules(config, rules, fresh_tickets=True)
    before = site(rules.tls["web"], "a.test")
    assert site(kept.tls["web"], "a.test").context() is before.context()
    assert site(fresh.tls["web"], "a.test").context() is not before.context()
