"""What the README and the guide show is true: configurations load, links lead somewhere, commands exist, and what needs
no clock and no port is printed by the program exactly as it is shown.
"""
from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from edgeproxy import cli, demo, selfsigned
from edgeproxy.config.load import load_text
from edgeproxy.errors import OK, Kind, Phase

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/guide.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")
WITH_ARGUMENT = ("-c", "--config")

FIVE_MISTAKES = """\
listeners:
  web:
    bind: ":8080"
    protocol: http
    timeout: {idle: 30s}
routes:
  - host: shop.example.com
    service: shpo
  - host: old.example.com
    redirect: {host: shop.example.com, status: 300}
services:
  shop:
    endpoints: ["10.0.0.5:80", "10.0.0.5:8O"]
    balance: round_robin
"""
SHOP = "http://shop.example.com/api/orders"
# Not on any line of the access log: one is only a reason in `attempts`; two end a connection of HTTP/2 and are told in the
# error log; one is raised nowhere.
UNSEEN = {"status"}
PEM = re.compile(r"\b(cert|key|ca|default): ([\w./-]+\.(?:crt|key|pem))")


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(text(page)) if language in languages]


def prose(page: str) -> str:
    return FENCE.sub("", text(page))


def anchors(page: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


CONFIGURATIONS = [pytest.param(body, id=f"{page}-{number}") for page in PAGES
                  for number, body in enumerate(blocks(page, "yaml"))]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> selfsigned.Files:
    return selfsigned.write(str(tmp_path_factory.mktemp("pair")), ["shop.example.com"], 30, time.time(), False)


def put_certificates(config: str, folder: Path, pair: selfsigned.Files) -> None:
    """A certificate or a key for each file that the configuration names."""
    for key, name in PEM.findall(config):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            shutil.copy(pair.key if key == "key" else pair.cert, path)


@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_a_configuration_loads(config: str, tmp_path: Path, pair: selfsigned.Files,
                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put_certificates(config, tmp_path, pair)
    assert load_text(config, env={}, now=time.time()).listeners


def test_the_readme_shows_the_smallest_example() -> None:
    [shown] = blocks("README.md", "yaml")
    assert shown in text("conf/minimal.yaml")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_something(page: str) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith("https://"):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(str(target.resolve().relative_to(ROOT))), link


@pytest.mark.parametrize("page", ["docs/pictures/data-path.svg"])
def test_pictures_ask_for_nothing_from_outside(page: str) -> None:
    assert re.findall(r'(?:href|src|url\()\s*=?\s*"?https?:', text(page)) == []


def command_lines(page: str) -> Iterator[list[str]]:
    """The words after each `edgeproxy` that is a command: in blocks, and in text between backquotes."""
    lines = [line for body in blocks(page, "sh", "text", "ini") for line in body.splitlines()]
    lines += re.findall(r"`(edgeproxy [^`]*)`", prose(page))
    for line in lines:
        found = re.match(r"(?:\$ )?(?:[A-Z]+=\S+ |\w+=/\S*/)*edgeproxy (?!demo: |\d)(.*)", line)
        if found:
            yield re.split(r"\s+#|\s+\||\s+&", found[1])[0].split()


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page: str) -> None:
    seen = 0
    for words in command_lines(page):
        seen += 1
        while words and words[0] in WITH_ARGUMENT:
            words = words[2:]
        assert not words or words[0] in cli.COMMANDS, words
    assert seen > 3


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.M))
    named = {name for page in PAGES for name in re.findall(r"(?:`|^    )make ([a-z]+)", text(page), re.M)}
    assert named >= {"demo", "test"}
    assert named <= targets


def test_five_mistakes_are_told_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "five.yaml").write_text(FIVE_MISTAKES, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", "-c", "five.yaml"]) == 78
    assert capsys.readouterr().err in text("README.md")


def test_explain_answers_as_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.main(["explain", "-c", "conf/http.yaml", SHOP]) == 0
    assert f"$ edgeproxy explain -c conf/http.yaml {SHOP}\n{capsys.readouterr().out}" in text("README.md")


def test_explain_answers_as_the_guide_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    [config] = [body for body in blocks("docs/guide.md", "yaml") if "de.shop.example.com" in body]
    (tmp_path / "shop.yaml").write_text(config, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["explain", "-c", "shop.yaml", "http://shop.example.com/apiary"]) == 0
    assert capsys.readouterr().out in text("docs/guide.md")


def test_explain_answers_about_server_names_as_the_guide_shows(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    [config] = [body for body in blocks("docs/guide.md", "yaml") if "protocol: tls" in body]
    (tmp_path / "pass.yaml").write_text(config, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    url = "https://other.example.com:8443/"
    assert cli.main(["explain", "-c", "pass.yaml", url]) == 1
    assert f"$ edgeproxy explain -c pass.yaml {url}\n{capsys.readouterr().out}" in text("docs/guide.md")


def test_explain_answers_about_certificates_as_the_guide_shows(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """But for the folder that it was shown in, and the days, which are counted."""
    [config] = [body for body in blocks("docs/guide.md", "yaml") if "tls/localhost.crt" in body]
    (tmp_path / "https.yaml").write_text(config, encoding="utf-8")
    selfsigned.write(str(tmp_path / "tls"), ["localhost"], 365, time.time(), False)
    monkeypatch.chdir(tmp_path)
    shown = re.sub(r"/srv(?=/tls)|in \d+ days", "", text("docs/guide.md"))
    for host, status in (("localhost", 0), ("127.0.0.1", 1)):
        url = f"https://{host}:8443/x"
        assert cli.main(["explain", "-c", "https.yaml", url]) == status
        told = re.sub(r"in \d+ days", "", capsys.readouterr().out.replace(str(tmp_path), ""))
        assert f"$ edgeproxy explain -c https.yaml {url}\n{told}" in shown


def test_the_demo_that_is_shown_has_what_it_starts_and_what_to_try() -> None:
    [shown] = [body for body in blocks("README.md", "text") if body.startswith("edgeproxy demo:")]
    tried = [re.escape(line) for line in demo.TRY.strip().splitlines()]
    for line in tried:
        assert re.search(re.sub(r"\\\{\w+\\\}", r"\\S+", line), shown), line
    listening = re.findall(r"^listening on \S+ \(\w+: (\w+)", shown, re.M)
    assert listening == re.findall(r"protocol: (\w+)", demo.CONFIG)


def test_the_guide_explains_every_outcome_and_phase() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", text("docs/guide.md"), re.M))
    assert OK.cause in rows
    assert UNSEEN.isdisjoint(rows)
    told = [kind for kind in Kind if kind.word not in UNSEEN]
    assert [kind.word for kind in told if kind.word not in rows] == []
    assert [phase.value for phase in Phase if phase.value not in rows] == []
    assert [kind.word for kind in told if rows[kind.word].strip() not in ("–", str(kind.status))
            and not rows[kind.word].startswith(f"{kind.status},")] == []


@pytest.mark.parametrize(("page", "most"), [("README.md", 250), ("docs/guide.md", 1150)])
def test_pages_stay_short(page: str, most: int) -> None:
    assert len(text(page).splitlines()) <= most
