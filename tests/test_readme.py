"""What the README and the guide show is true: configurations load, links lead somewhere, commands exist, and what needs
no clock and no port is printed by the program exactly as it is shown.
"""
from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from edgeproxy import cli
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


@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_a_configuration_loads(config: str) -> None:
    assert load_text(config, env={}).listeners


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
        found = re.match(r"(?:\$ )?(?:[A-Z]+=\S+ |\w+=/\S*/)*edgeproxy (?!demo: )(.*)", line)
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


def test_the_guide_explains_every_outcome_and_phase() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", text("docs/guide.md"), re.M))
    assert OK.cause in rows
    told = [kind for kind in Kind if kind is not Kind.STATUS]  # that one is only a reason in `attempts`
    assert [kind.word for kind in told if kind.word not in rows] == []
    assert [phase.value for phase in Phase if phase.value not in rows] == []
    assert [kind.word for kind in told if rows[kind.word].strip() not in ("–", str(kind.status))
            and not rows[kind.word].startswith(f"{kind.status},")] == []


@pytest.mark.parametrize(("page", "most"), [("README.md", 250), ("docs/guide.md", 450)])
def test_pages_stay_short(page: str, most: int) -> None:
    assert len(text(page).splitlines()) <= most
