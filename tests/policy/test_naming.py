"""What is known of a name: sets, absence, failures, by an invented clock."""
from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproxy.policy.naming import (
    ABSENT,
    CONFIRM,
    DOUBTED,
    FAILING,
    FOUND,
    GONE,
    LONGEST_FAILING,
    NO_NEWS,
    RECOVERED,
    UNASKED,
    Manner,
    NameState,
    Pace,
)

ONE = frozenset({"10.0.0.1"})
TWO = frozenset({"10.0.0.1", "10.0.0.2"})


class Steady(random.Random):
    """Chance that takes nothing off."""

    def random(self) -> float:
        return 0.0


STEADY = Steady()


def fresh(pace: Pace = Pace()) -> NameState[str]:  # noqa: B008
    return NameState(pace, 100.0)


def found(state: NameState[str], targets: frozenset[str], now: float, ttl: float = 10.0) -> str:
    return state.answered(targets, ttl, (), now, STEADY)


def test_it_begins_with_a_question_at_once() -> None:
    state = fresh()
    assert (state.said, state.known, state.next_at, state.stale, state.heard) == (UNASKED, frozenset(), 100.0, False, False)


@pytest.mark.parametrize("ttl, pause", [(0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (30.0, 30.0), (60.0, 60.0), (2.0 ** 31, 60.0)])
def test_ttl_is_clamped(ttl: float, pause: float) -> None:
    state = fresh()
    assert found(state, ONE, 100.0, ttl) == NO_NEWS
    assert (state.next_at, state.ttl_until) == (100.0 + pause, 100.0 + ttl)


def test_refresh_takes_the_place_of_the_ttl() -> None:
    state = fresh(Pace(refresh=120.0))
    found(state, ONE, 100.0, 5.0)
    assert state.next_at == 220.0
    state.pace = Pace(refresh=0.25)
    found(state, ONE, 300.0, 5.0)
    assert state.next_at == 300.25


def test_chance_takes_off_up_to_a_tenth() -> None:
    state, rng = fresh(), random.Random(1)
    pauses = []
    for _ in range(500):
        state.answered(ONE, 10.0, (), 0.0, rng)
        pauses.append(state.next_at)
    assert 9.0 < min(pauses) < 9.1 and 9.9 < max(pauses) <= 10.0


def test_a_failure_keeps_what_is_known_and_backs_off() -> None:
    state = fresh()
    found(state, TWO, 100.0)
    now, pauses, news = 110.0, [], []
    for _ in range(8):
        news.append(state.failed("timeout of 10.0.0.53", now))
        pauses.append(state.next_at - now)
        now = state.next_at
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert news == [FAILING] + [NO_NEWS] * 7, "it is worth one line"
    assert state.stale and state.known == TWO and state.found_at == 100.0 and state.troubled_since == 110.0
    assert state.error == "timeout of 10.0.0.53"
    assert found(state, TWO, now) == RECOVERED
    assert (state.stale, state.failures, state.error) == (False, 0, "")


def test_thousands_of_failures_overflow_nothing() -> None:
    state = fresh()
    for _ in range(5000):
        state.failed("timeout", 100.0)
    assert state.next_at == 100.0 + LONGEST_FAILING


def test_absence_is_believed_when_it_is_said_again() -> None:
    state = fresh()
    found(state, TWO, 100.0)
    assert state.absent("no such name", 30.0, 110.0) == NO_NEWS
    assert (state.said, state.known, state.stale, state.next_at) == (DOUBTED, TWO, False, 110.0 + CONFIRM)
    assert state.absent("no such name", 30.0, state.next_at) == GONE
    assert (state.said, state.known, state.error) == (ABSENT, frozenset(), "no such name")
    assert state.absent("no such name", 30.0, 120.0) == NO_NEWS


def test_a_second_absence_too_soon_confirms_nothing() -> None:
    state = fresh()
    found(state, ONE, 100.0)
    for now in (110.0, 110.2, 110.9, 110.999):
        assert state.absent("no address", 30.0, now) == NO_NEWS
        assert state.known == ONE and state.next_at == 111.0


def test_a_name_that_flaps_each_second_loses_nothing() -> None:
    state = fresh()
    for second in range(0, 60, 2):
        assert found(state, TWO, 100.0 + second) == NO_NEWS
        state.absent("no such name", 0.0, 101.0 + second)
        assert state.known == TWO


def test_a_failure_between_two_absences_is_no_answer() -> None:
    state = fresh()
    found(state, ONE, 100.0)
    state.absent("no such name", 0.0, 110.0)
    assert state.failed("timeout", 110.5) == FAILING
    assert state.known == ONE and state.stale
    assert state.absent("no such name", 0.0, 111.5) == GONE
    assert state.known == frozenset() and state.failures == 0


def test_a_doubt_does_not_make_a_row_of_failures_news_again() -> None:
    state = fresh()
    found(state, ONE, 100.0)
    assert state.failed("timeout", 110.0) == FAILING
    state.absent("no such name", 0.0, 111.0)
    assert state.failed("timeout", 111.5) == NO_NEWS


@pytest.mark.parametrize("ttl, negative, pause", [
    (10.0, 30.0, 5.0), (10.0, 3.0, 3.0), (2.0, 30.0, 2.0), (10.0, 0.0, 1.0), (None, 3600.0, 5.0), (None, 0.0, 1.0)])
def test_what_is_absent_is_asked_for_soon(ttl: float | None, negative: float, pause: float) -> None:
    state = fresh()
    if ttl is not None:
        found(state, ONE, 100.0, ttl)
    state.absent("no such name", negative, 110.0)
    state.absent("no such name", negative, 111.0)
    assert state.next_at == 111.0 + pause


def test_min_ttl_holds_for_what_is_absent() -> None:
    state = fresh(Pace(min_ttl=8.0))
    state.absent("no such name", 0.0, 110.0)
    state.absent("no such name", 0.0, 111.0)
    assert state.next_at == 119.0


def test_keep_holds_the_last_set() -> None:
    state = fresh(Pace(keep=True))
    found(state, TWO, 100.0)
    state.absent("no address", 5.0, 110.0)
    assert state.absent("no address", 5.0, 111.0) == GONE
    assert state.known == TWO and state.stale
    assert found(state, TWO, 120.0) == RECOVERED
    assert not state.stale


def test_keep_that_is_taken_back_holds_from_the_next_answer_on() -> None:
    state = fresh(Pace(keep=True))
    found(state, ONE, 100.0)
    state.absent("no address", 5.0, 110.0)
    state.absent("no address", 5.0, 111.0)
    state.pace = Pace()
    assert state.known == ONE
    state.absent("no address", 5.0, 112.0)
    assert state.known == frozenset()


def test_failures_of_an_absent_name_are_told_and_their_end_too() -> None:
    state = fresh()
    state.absent("no such name", 5.0, 110.0)
    state.absent("no such name", 5.0, 111.0)
    assert state.failed("timeout", 116.0) == FAILING
    assert not state.stale, "nothing is kept"
    assert state.absent("no such name", 5.0, 117.0) == RECOVERED


def test_a_name_that_comes_back_is_found() -> None:
    state = fresh()
    found(state, ONE, 100.0)
    state.absent("no such name", 5.0, 110.0)
    state.absent("no such name", 5.0, 111.0)
    assert found(state, ONE, 112.0) == NO_NEWS
    assert state.said == FOUND and state.known == ONE
    assert state.absent("no such name", 5.0, 122.0) == NO_NEWS, "a doubt begins anew"
    assert state.known == ONE


@pytest.mark.parametrize("one, other, merged", [
    (Pace(keep=True), Pace(), Pace(keep=True)), (Pace(), Pace(), Pace()), (Pace(keep=True), Pace(keep=True), Pace(keep=True)),
    (Pace(refresh=30.0), Pace(refresh=10.0, keep=True), Pace(refresh=10.0, keep=True)),
    (Pace(refresh=30.0), Pace(), Pace(refresh=30.0)), (Pace(4.0, 8.0), Pace(4.0, 8.0), Pace(4.0, 8.0))])
def test_sources_that_share_a_name_are_asked_for_together(one: Pace, other: Pace, merged: Pace) -> None:
    first, second = Manner(("AAAA",), one, ()), Manner(("A", "AAAA"), other, ())
    assert first.merged(second) == second.merged(first) == Manner(("A", "AAAA"), merged, ())


@pytest.mark.parametrize("ttl, negative, pause", [(2.0, 30.0, 30.0), (2.0, 3.0, 3.0), (2.0, 0.0, 1.0), (None, 3600.0, 60.0)])
def test_a_family_that_the_name_does_not_have_is_not_waited_for(ttl: float | None, negative: float, pause: float) -> None:
    state = fresh()
    if ttl is not None:
        found(state, ONE, 100.0, ttl)
    for now in (110.0, 111.0, 200.0):
        state.absent("no address", negative, now, alone=False)
    assert state.next_at == 200.0 + pause


answers = st.one_of(
    st.tuples(st.just("found"), st.sampled_from([ONE, TWO]), st.floats(0, 1e6)),
    st.tuples(st.just("absent"), st.just(frozenset[str]()), st.floats(0, 1e6)),
    st.tuples(st.just("failed"), st.just(frozenset[str]()), st.just(0.0)))
paces = st.builds(Pace, st.floats(0.001, 60), st.floats(60, 3600), st.none() | st.floats(0.001, 3600), st.booleans())


@settings(max_examples=300)
@given(paces, st.lists(st.tuples(answers, st.floats(0, 40)), max_size=40), st.integers(0, 1000))
def test_whatever_the_order(pace: Pace, story: list[tuple[tuple[str, frozenset[str], float], float]], seed: int) -> None:
    """A failure never shrinks what is known, absence needs two answers at least 1 s apart, and the next question is
    neither due at once nor later than the rules allow."""
    state, rng, now = fresh(pace), random.Random(seed), 100.0
    absences: list[float] = []
    for (kind, targets, ttl), passed in story:
        now += passed
        before = state.known
        if kind == "found":
            state.answered(targets, ttl, (), now, rng)
            assert state.known == targets
            absences = []
        elif kind == "absent":
            state.absent("no such name", ttl, now)
            absences.append(now)
            sure = now >= absences[0] + CONFIRM
            assert state.known == (frozenset() if sure and not pace.keep else before)
            assert (state.said == ABSENT) == sure
        else:
            state.failed("timeout", now)
            assert state.known == before
            assert state.stale == bool(before)
        longest = max(pace.max_ttl, LONGEST_FAILING, pace.refresh or 0.0)
        assert now < state.next_at <= now + longest
