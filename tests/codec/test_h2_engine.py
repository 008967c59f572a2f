"""Which HTTP/2 engine is chosen, and that both keep the interface."""
from __future__ import annotations

import inspect
import sys

import h2_play as play
import pytest

from edgeproxy.codec import h2
from edgeproxy.codec.h2_base import H2Codec, Streams


def test_ngh2_comes_first() -> None:
    pytest.importorskip("ngh2")
    assert h2._choose("")[0] == h2._choose("ngh2")[0] == h2._choose("?")[0] == "ngh2"


def test_hyper_can_be_forced_and_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("h2")
    assert h2._choose("h2") == ("h2", play.codec_class("h2"))
    monkeypatch.setitem(sys.modules, "edgeproxy.codec.h2_ngh2", None)  # as if its library were missing
    assert h2._choose("")[0] == "h2"
    with pytest.raises(ImportError):
        h2._choose("ngh2")


def test_build_codec_begins_at_once() -> None:
    codec = h2.build_codec(Streams(), True, h2.H2Limits(), 0.0)
    assert isinstance(codec, H2Codec) and codec.output().startswith(play.PREFACE)


@pytest.mark.parametrize("engine", play.ENGINES)
def test_engines_do_all_that_is_promised(engine: str) -> None:
    kind = play.codec_class(engine)
    for name, promised in inspect.getmembers(H2Codec, inspect.isroutine):
        if not name.startswith("__") and "NotImplementedError" in (inspect.getsource(promised) if inspect.isfunction(promised) else ""):
            assert getattr(kind, name) is not promised, name


@pytest.mark.parametrize("engine", play.ENGINES)
def test_a_user_may_listen_to_nothing(engine: str) -> None:
    codec = play.codec_class(engine)(Streams(), False, h2.H2Limits(), 0.0)
    codec.receive(play.HELLO + play.head(1, play.POST, False) + play.data(1, b"x") + play.rst(1) + play.ping(), 0.0)
    assert codec.open == 0 and codec.output()
