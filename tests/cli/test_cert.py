"""`edgeproxy cert self-signed`, and what `check` and `explain` say of certificates: as commands and by the table itself."""
from __future__ import annotations

import json
import os
import re
import ssl
import stat
import time
from pathlib import Path

import pytest
from commandline import edgeproxy

from edgeproxy import cli, selfsigned
from edgeproxy.config.certificates import read_certificate
from edgeproxy.config.load import load_text
from edgeproxy.config.model import Config
from edgeproxy.explain import Answer, explain, question
from edgeproxy.policy.sni import covers
from edgeproxy.snapshot import compile_tls

DAY = 86400.0


# ---- making one

def test_a_certificate_to_try_with(tmp_path: Path) -> None:
    done = edgeproxy("cert", "self-signed", "--host", "A.example", "--host", "*.b.example", "--host", "127.0.0.1", "--host",
                     "[::1]", "--out", "new/tls", "--days", "30", cwd=tmp_path)
    cert, secret = (tmp_path / "new" / "tls" / f"a.example.{end}" for end in ("crt", "key"))
    assert done == (0, f"""\
cert  {cert}  (a.example, *.b.example, 127.0.0.1, ::1; 30 days)
key   {secret}
in a listener:
    protocol: https
    tls:
      certificates:
        - {{cert: {cert}, key: {secret}}}
      default: {cert}   # clients send no server name for an address
""", "")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600 and stat.S_IMODE(cert.stat().st_mode) & 0o777 == 0o644 & ~umask()
    assert sorted(path.name for path in cert.parent.iterdir()) == ["a.example.crt", "a.example.key"]
    found = read_certificate(str(cert), str(secret), time.time())
    assert found.names == ("a.example", "*.b.example", "127.0.0.1", "::1")
    assert (found.key_type, found.days_left(time.time())) == ("ecdsa", 29)


def umask() -> int:
    old = os.umask(0o22)
    os.umask(old)
    return old


def test_the_printed_lines_are_a_listener(tmp_path: Path) -> None:
    folder = tmp_path / "it's: a \"folder\""
    done = edgeproxy("cert", "self-signed", "--host", "*.example", "--host", "127.0.0.1", "--out", str(folder))
    lines = done.out.partition("in a listener:\n")[2]
    text = f'listeners:\n  l:\n    bind: "127.0.0.1:0"\n{lines}routes: [{{respond: {{}}}}]\n'
    config = load_text(text, now=time.time())
    assert [one.names for one in config.certificates.values()] == [("*.example", "127.0.0.1")]
    assert (folder / "wildcard.example.key").exists()


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    command = ("cert", "self-signed", "--host", "a.example", "--json")
    report = json.loads(edgeproxy(*command, cwd=tmp_path).out)
    assert report == {"cert": f"{tmp_path}/a.example.crt", "key": f"{tmp_path}/a.example.key", "hosts": ["a.example"],
                      "days": 365}
    before = Path(report["key"]).read_bytes()
    os.unlink(report["cert"])
    done = edgeproxy(*command, cwd=tmp_path)
    assert done == (1, "", f"edgeproxy: {report['key']}: this file exists already (--force makes it anew)\n")
    assert Path(report["key"]).read_bytes() == before and not Path(report["cert"]).exists()
    os.chmod(report["key"], 0o644)
    assert edgeproxy(*command, "--force", cwd=tmp_path).status == 0
    assert Path(report["key"]).read_bytes() != before
    assert stat.S_IMODE(os.stat(report["key"]).st_mode) == 0o600


@pytest.mark.parametrize(("args", "message"), [
    ([], "the following arguments are required: kind, --host"),
    (["signed", "--host", "a"], "argument kind: invalid choice: 'signed'"),
    (["self-signed", "--host", "a", "--days", "0"], "argument --days: '0' is not a number of days from 1 to 3650"),
    (["self-signed", "--host", "**.a"], "cert self-signed: --host: a certificate's wildcard stands for one label; write *.a"),
    (["self-signed", "--host", "a/b"], 'cert self-signed: --host: "a/b" is not a host name'),
    (["self-signed", "--host", "exämple"], 'cert self-signed: --host: "exämple" is not ASCII; browsers send it as '),
])
def test_usage(args: list[str], message: str) -> None:
    done = edgeproxy("cert", *args)
    assert (done.status, done.out) == (2, "") and done.err.startswith(f"edgeproxy: {message}")


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = edgeproxy("cert", "self-signed", "--host", "a", "--out", "file", cwd=tmp_path)
    assert done == (1, "", f"edgeproxy: {tmp_path}/file: File exists\n")


def test_openssl_takes_it(tmp_path: Path) -> None:
    files = selfsigned.write(tmp_path, ["a.example", "10.0.0.1"], 1, time.time())
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(files.cert))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    server.load_cert_chain(*files)
    for host in ("a.example", "10.0.0.1"):
        handshake(server, client, host)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client, "b.example")


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> None:
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there, server_hostname=host), server.wrap_bio(there, back, server_side=True)]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass


# ---- what is said of them

CONF = """\
listeners:
  web: {bind: ":80", protocol: http, redirect_to_https: true}
  alt: {bind: ":8080", protocol: http, redirect_to_https: 8443}
  site:
    bind: ":443"
    protocol: https
    tls:
      certificates: [{cert: a.crt, key: a.key}, {cert: b.crt, key: b.key}]
      default: a.crt
  strict:
    bind: ":8443"
    protocol: https
    tls:
      certificates: [{cert: a.crt, key: a.key}]
      min_version: "1.3"
      alpn: [http/1.1]
      client_auth: {ca: b.crt}
  pass: {bind: ":9443", protocol: tls, sni: {db.example: db, "*.db.example": app}}
routes:
  - {name: a, host: a.example, service: app}
  - {name: b, host: [b.example, "*.b.example"], service: app, path: /b}
  - {name: go, path: /go, redirect: {path: /gone}}
services:
  app: {endpoints: ["10.0.0.1:443"], protocol: https, tls: {server_name: inner.example}}
  db: {endpoints: ["10.0.0.2:5432"]}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    now = time.time()
    for name, hosts in (("a", ["a.example", "www.a.example", "x1.example", "x2.example"]), ("b", ["b.example", "*.b.example"])):
        made = selfsigned.make(hosts, 100, now)
        (tmp_path / f"{name}.crt").write_bytes(made.cert)
        (tmp_path / f"{name}.key").touch(0o600)
        (tmp_path / f"{name}.key").write_bytes(made.key)
    (tmp_path / "conf.yaml").write_text(CONF)
    return tmp_path


@pytest.fixture
def config(folder: Path) -> Config:
    return load_text(CONF)


def ask(config: Config, url: str, *fields: str) -> Answer:
    return explain(config, question("GET", url, fields, "192.0.2.7"), time.time() + DAY)


def test_explain_as_a_command(folder: Path) -> None:
    done = edgeproxy("explain", "-c", "conf.yaml", "GET", "https://x.b.example/b/c", cwd=folder)
    cert = folder / "b.crt"
    assert (done.status, done.err) == (0, "")
    assert done.out.partition("not ")[0] == f"""\
request    GET https://x.b.example/b/c from 127.0.0.1
listener   site :443 https
cert       {cert} (b.example, *.b.example; ecdsa, expires in 99 days): by *.b.example
tls        1.2 or newer, offers h2, http/1.1
route      b (host b.example or *.b.example, path /b)
service    app (round-robin; https, checked as inner.example)
endpoint   10.0.0.1:443 (weight 1, 100 %)
limits     3 tries on connect, reset, response 60s
"""


@pytest.mark.parametrize(("url", "cert", "why", "trusted"), [
    ("https://a.example/", "a.crt", "by its name", True), ("https://B.example./", "b.crt", "by its name", True),
    ("https://x.b.example/", "b.crt", "by *.b.example", True),
    ("https://y.x.b.example/", "a.crt", "the default, since no certificate is for y.x.b.example", False),
    ("https://10.0.0.9/", "a.crt", "the default, since clients send no server name for an address", False),
    ("https://[::1]/", "a.crt", "the default, since clients send no server name for an address", False),
])
def test_which_certificate(config: Config, url: str, cert: str, why: str, trusted: bool) -> None:
    answer = ask(config, url)
    assert answer.greeting is not None
    assert [one.cert for one in answer.greeting.certificates] == [cert]
    assert (answer.greeting.why, answer.greeting.trusted) == (why, trusted)
    turned = "           a client that checks names turns away here (curl: -k goes on)" in list(answer.as_text())
    assert turned is not trusted


def test_it_is_what_the_listener_would_show(config: Config) -> None:
    table = compile_tls(config, {})["site"].sites
    for host in ("a.example", "www.a.example", "b.example", "x.b.example", "y.x.b.example", "c.example"):
        answer, site = ask(config, f"https://{host}/"), table.find(host)
        assert answer.greeting is not None and site is not None
        assert answer.greeting.certificates == site.certificates
        assert answer.greeting.trusted is covers(site.certificates[0].names, host)


def test_a_refused_handshake(config: Config) -> None:
    answer = ask(config, "https://b.example:8443/")
    assert not answer.found and list(answer.as_text())[2:] == [
        "no answer  the handshake is refused (unrecognized_name): no certificate is for b.example, and there is no default"]
    assert answer.as_json()["tls"] == {
        "sni": "b.example", "refused": True, "trusted": False, "client_certificate": None, "certificates": [],
        "why": "the handshake is refused (unrecognized_name): no certificate is for b.example, and there is no default"}
    assert ask(config, "https://127.0.0.1:8443/").problem.endswith(
        "clients send no server name for an address, and there is no default")


def test_client_certificates_and_versions(config: Config) -> None:
    lines = list(ask(config, "https://a.example:8443/").as_text())
    assert lines[2] == ("cert       a.crt (a.example, www.a.example, x1.example and 1 more; ecdsa, expires in 98 days): "
                        "by its name")
    assert lines[3:5] == ["tls        1.3, offers http/1.1", "clients    must show a certificate signed by one of b.crt"]


def test_misdirected_requests(config: Config) -> None:
    answer = ask(config, "https://a.example/", "Host: b.example")
    assert not answer.found and answer.reply is not None and answer.reply[0] == 421
    assert answer.problem == "misdirected: the connection is a.example, and b.crt is the certificate for b.example"
    assert ask(config, "https://a.example/go", "Host: unknown.example").found
    assert ask(config, "https://b.example/b", "Host: x.b.example:443").found
    assert ask(config, "https://10.0.0.1/b", "Host: b.example").problem == (
        "misdirected: the connection is without a server name, and b.crt is the certificate for b.example")


def test_redirects_to_https(config: Config) -> None:
    assert ask(config, "http://a.example/x?y").reply == (308, "redirect to https://a.example/x?y (redirect_to_https)")
    assert ask(config, "http://a.example:8080/").reply == (308, "redirect to https://a.example:8443/ (redirect_to_https)")
    assert ask(config, "https://www.a.example/go").reply == (308, "redirect to https://www.a.example/gone")


def test_passthrough(config: Config) -> None:
    answer = ask(config, "https://db.example:9443/x")
    assert answer.found and list(answer.as_text())[1:4] == [
        "listener   pass :9443 tls", "sni        db.example, relayed without being decrypted", "service    db (round-robin)"]
    assert ask(config, "tls://X.db.example:9443").sni == "*.db.example"
    assert "service    app (round-robin)" in list(ask(config, "tls://x.db.example:9443").as_text())
    assert ask(config, "https://other:9443/").problem == (
        'no server name here fits other, and there is no "*": the connection is closed')
    assert ask(config, "http://db.example:9443/").problem == (
        "this listener relays TLS only: a connection that begins otherwise is closed")


def test_check_warns_of_hosts_without_a_certificate(folder: Path) -> None:
    def warned(routes: str) -> list[str]:
        (folder / "conf.yaml").write_text(CONF.partition("routes:")[0] + f"routes:\n{routes}" + "services:\n" +
                                          CONF.partition("services:\n")[2])
        done = edgeproxy("check", "-c", "conf.yaml", cwd=folder)
        assert done.status == 0
        return re.findall(r"^conf.yaml:(\d.*)", done.err, re.M)
    assert warned('- {host: [a.example, www.a.example, "[::1]"], service: app, listeners: [site]}\n- {service: app}\n') == [
        '20:37: warning: no certificate of the listener "site" is for [::1]: clients are shown the default, a.crt, and turn '
        "away"]
    assert warned('- {host: ["*.b.example", "**.b.example", "*.a.example", "*.example"], service: app}\n')[:2] == [
        '20:11: warning: no certificate of the listener "strict" is for *.b.example: their handshakes are refused '
        "(unrecognized_name)",
        '20:26: warning: no certificate of the listener "strict" is for **.b.example: their handshakes are refused '
        "(unrecognized_name)"]
    assert warned('- {host: ["*.c.example", c.example], service: app, listeners: [site]}\n- {service: app}\n') == [
        f'20:{column}: warning: no certificate of the listener "site" is for {host}: clients are shown the default, a.crt, '
        "and turn away" for column, host in ((11, "*.c.example"), (26, "c.example"))]


def test_check_warns_of_a_certificate_that_is_never_shown(folder: Path) -> None:
    made = selfsigned.make(["b.example"], 100, time.time())
    (folder / "c.crt").write_bytes(made.cert)
    (folder / "c.key").write_bytes(made.key)
    os.chmod(folder / "c.key", 0o600)
    (folder / "conf.yaml").write_text("""\
listeners:
  site:
    bind: ":443"
    protocol: https
    tls: {certificates: [{cert: a.crt, key: a.key}, {cert: b.crt, key: b.key}, {cert: c.crt, key: c.key}]}
routes: [{respond: {}}]
""")
    done = edgeproxy("check", "-c", "conf.yaml", cwd=folder)
    assert done.err.splitlines()[0] == (
        f"conf.yaml:5:80: warning: this certificate is never shown: {folder}/b.crt comes first and has the same names")


def test_check_judges_dates(folder: Path) -> None:
    (folder / "conf.yaml").write_text(CONF)
    made = selfsigned.make(["b.example", "*.b.example"], 3, time.time())
    (folder / "b.crt").write_bytes(made.cert)
    (folder / "b.key").write_bytes(made.key)
    done = edgeproxy("check", "-c", "conf.yaml", cwd=folder)
    assert "the certificate " + str(folder / "b.crt") + " expires in 2 days: renew it" in done.err
    made = selfsigned.make(["b.example"], 1, time.time() - 40 * DAY)
    (folder / "b.crt").write_bytes(made.cert)
    (folder / "b.key").write_bytes(made.key)
    for command in (("check",), ()):
        done = edgeproxy(*command, "-c", "conf.yaml", cwd=folder)
        assert done.status == 78 and f"conf.yaml:8:56: {folder}/b.crt: the certificate expired 39 days ago, on " in done.err


def test_all_faults_at_once_as_a_command(folder: Path) -> None:
    (folder / "a.key").write_bytes((folder / "b.key").read_bytes())
    (folder / "b.crt").unlink()
    done = edgeproxy("check", "-c", "conf.yaml", cwd=folder)
    assert done.status == 78 and done.err.endswith("edgeproxy: 4 errors in the configuration\n")
    assert done.err.splitlines()[0] == (f"conf.yaml:8:41: {folder}/a.key: this key does not belong to the certificate "
                                        f"{folder}/a.crt; which of the two is old?")
    assert "PRIVATE" not in done.err


def test_help_names_it() -> None:
    with pytest.raises(SystemExit):
        cli.main(["cert", "self-signed", "--help"])
