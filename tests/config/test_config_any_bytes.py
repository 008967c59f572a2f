"""Whatever bytes a configuration file holds, the answer is a configuration or a ConfigError, never another exception."""
from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeproxy.config import nodes
from edgeproxy.config.check import warnings
from edgeproxy.config.delta import delta
from edgeproxy.config.load import ConfigError, Loaded, read, read_text

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted(CONF.glob("*.yaml"))
TEXTS = [path.read_text(encoding="utf-8") for path in FILES]
WORDS = sorted({word for text in TEXTS for word in re.findall(r"[\w./:*$-]+|\S", text)})
ODD = ["", "~", "null", "-1", "0", "99999999999999999999", "5x", "1e999", "nan", "*a", "&a", "&a [*a]", "!!int 3",
       "<<", "? ", "---\n",
       "\t", "'", '"', "[", "]", "{", "}", "${X}", "${X:-", "$${", "\x00", "\x85", "\u2028", "\ufeff", "\ud7ff", "😀",
       "ä", "::", ":",
       "unix:", "[::1]:80", "fe80::1%x:1", "regex: (", "(?i)", "a{9999999999}", "{hash: {header: x}}", '"\\ud800"',
       '"\\U00110000"']


def answer(text: str) -> Loaded | None:
    """Loads, and prints what there is to print."""
    try:
        loaded = read_text(text, env={"X": "1"})
    except ConfigError as error:
        assert error.problems
        assert str(error)
        places = [(problem.line, problem.column) for problem in error.problems]
        assert places == sorted(set(places)), "sorted, and one problem for each place"
        lines = nodes._BREAK.split(text.removeprefix("\ufeff"))
        assert all(problem.line <= len(lines) for problem in error.problems)
        return None
    assert all(str(warning) for warning in warnings(loaded.config, loaded.places))
    assert not delta(loaded.config, loaded.config)
    return loaded


@pytest.fixture(params=["libyaml", "python"])
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        pure = type("Pure", (yaml.BaseLoader,),
                    {key: value for key, value in vars(nodes._Loader).items() if key != "__doc__"})
        monkeypatch.setattr(nodes, "_Loader", pure)
    elif not hasattr(yaml, "CBaseLoader"):
        pytest.skip("no libyaml here")


@given(st.binary(max_size=200))
@example(b"\xff\xfel\x00")
@example(b"listeners: \xe4")
@example(b"a: \x80")
@example(b"\x00" * 50)
@example(b"\xef\xbb\xbflisteners: {}")
def test_bytes(data: bytes) -> None:
    path = Path(__file__).parent / "unused.yaml"
    from edgeproxy.config.problem import Problems
    from edgeproxy.config.sources import decode

    problems = Problems()
    document = decode(data, str(path), problems, 0)
    if document is None:
        assert str(ConfigError(problems.sorted()))
    else:
        answer(document.text)


@given(st.text(max_size=300))
@example("[" * 20000)
@example("- " * 5000)
@example("{a: " * 5000)
@example("a: &x [*x, *x]")
@example("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]")
@example("%YAML 3.0\n---\na: 1")
@example("listeners: {<<: &x {<<: *x}}")
def test_text(text: str) -> None:
    answer(text)


@settings(max_examples=400)
@given(st.sampled_from(TEXTS), st.randoms(use_true_random=False))
def test_valid_files_with_words_exchanged(text: str, rng: random.Random) -> None:
    answer(mutated(text, rng))


def mutated(text: str, rng: random.Random) -> str:
    """The text with some of its words replaced, dropped, doubled or joined by others."""
    parts = re.split(r"([\w./:*$-]+)", text)
    for _ in range(rng.randint(1, 6)):
        position = rng.randrange(len(parts))
        edit: Callable[[],
                       str] = rng.choice([lambda: rng.choice(ODD), lambda: rng.choice(WORDS), lambda: "", lambda: "\n",
                                              lambda: parts[rng.randrange(len(parts))] * 2,
                                              lambda: chr(rng.randrange(0xD800))])
        parts[position] = edit()
    return "".join(parts)


@pytest.mark.usefixtures("loader")
def test_many_mutations_with_both_parsers() -> None:
    rng = random.Random(7)
    loaded = sum(answer(mutated(rng.choice(TEXTS), rng)) is not None for _ in range(600))
    assert loaded > 10, "the mutations break everything and reach nothing"


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize("text", [
    "[" * 100_000, "- " * 100_000, "{a: " * 100_000, "? " * 100_000, "- - " * 50_000 + "[" * 50_000, "a: &x [*x]",
    '"\\ud800"', 'listeners: {web: {bind: "\\ud800", protocol: http}}', 'listeners: "\\U00110000"',
])
def test_what_parsers_stumble_over(text: str) -> None:
    assert answer(text) is None


def test_aliases_cannot_multiply() -> None:
    bomb = "a: &a [x]\n" + "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old,
                                   new in zip("abcdefg", "bcdefgh", strict=True))
    with pytest.raises(ConfigError, match="aliases make this more than 1000000 values"):
        read_text(bomb)


def test_a_file_of_bytes(tmp_path: Path) -> None:
    rng = random.Random(3)
    for number in range(50):
        path = tmp_path / f"{number}.yaml"
        path.write_bytes(rng.randbytes(200))
        with pytest.raises(ConfigError):
            read([path])
