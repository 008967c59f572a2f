"""Retries: every row of the table, and the budget."""
from __future__ import annotations

from itertools import product

import pytest

from edgeproxy.config import model
from edgeproxy.errors import Kind, ProxyError, RetryClass
from edgeproxy.policy.retry import RULES, RetryBudget, decide

EVERYTHING = model.Retry(attempts=3, when=("connect", "reset", "timeout", 502, 503, 504))
KIND = {kind.retry: kind for kind in Kind}


def again(kind: Kind, *, policy: model.Retry = EVERYTHING, status: int = 0, method: str = "GET", tries: int = 1,
          replayable: bool = True, written: bool = True, key: bool = False) -> bool:
    return decide(policy, ProxyError(kind), status=status, method=method, tries=tries, replayable=replayable,
                  written=written, idempotency_key=key)


def test_every_retry_class_has_its_row() -> None:
    assert set(RULES) == set(RetryClass) == set(KIND)


@pytest.mark.parametrize("kind", [k for k in Kind if k.retry is RetryClass.NEVER])
def test_never(kind: Kind) -> None:
    for method, written, key in product(("GET", "POST"), (True, False), (True, False)):
        assert not again(kind, method=method, written=written, key=key)


# (kind, status), and whether GET, POST, POST with a key, POST of which nothing was written are tried again
ROWS = [
    (Kind.CONNECT_REFUSED, 0, True, True, True, True),
    (Kind.CONNECT_FAILED, 0, True, True, True, True),
    (Kind.CONNECT_TIMEOUT, 0, True, True, True, True),
    (Kind.STALE, 0, True, False, True, True),
    (Kind.RESET, 0, True, False, True, True),
    (Kind.RESPONSE_TIMEOUT, 0, True, False, True, True),
    (Kind.STATUS, 503, True, False, False, False),
    (Kind.STATUS, 500, False, False, False, False),
]


@pytest.mark.parametrize(("kind", "status", "get", "post", "keyed", "unwritten"), ROWS)
def test_each_row(kind: Kind, status: int, get: bool, post: bool, keyed: bool, unwritten: bool) -> None:
    assert again(kind, status=status) is get
    assert again(kind, status=status, method="POST") is post
    assert again(kind, status=status, method="POST", key=True) is keyed
    assert again(kind, status=status, method="POST", written=False) is unwritten


def test_the_rows_cover_every_class() -> None:
    assert {row[0].retry for row in ROWS} == set(RetryClass) - {RetryClass.NEVER}


@pytest.mark.parametrize("row", ROWS)
def test_a_body_that_is_gone_is_not_sent_again(row: tuple[Kind, int]) -> None:
    assert not again(row[0], status=row[1], replayable=False)
    if row[0] is not Kind.STATUS:
        assert again(row[0], replayable=False, written=False)


@pytest.mark.parametrize("row", ROWS)
def test_no_more_tries_than_attempts(row: tuple[Kind, int]) -> None:
    if row[0] is Kind.STALE:  # no fault of the endpoint, so none of the attempts either
        assert again(row[0], tries=3, policy=model.Retry(attempts=1, when=EVERYTHING.when))
        return
    assert not again(row[0], status=row[1], tries=3)
    assert not again(row[0], status=row[1], policy=model.Retry(attempts=1, when=EVERYTHING.when))


@pytest.mark.parametrize(("word", "kinds"), [
    ("connect", {Kind.CONNECT_REFUSED, Kind.CONNECT_FAILED, Kind.CONNECT_TIMEOUT, Kind.TLS_ALERT, Kind.TLS_FAILED,
                 Kind.TLS_CERTIFICATE, Kind.NOT_PROCESSED, Kind.GOAWAY}),
    ("reset", {Kind.RESET}),
    ("timeout", {Kind.RESPONSE_TIMEOUT}),
    (502, {Kind.STATUS}),
    (None, set()),
])
def test_only_what_is_named_and_a_stale_channel_always(word: model.RetryOn | int | None, kinds: set[Kind]) -> None:
    policy = model.Retry(when=() if word is None else (word,))
    assert {kind for kind in Kind if again(kind, policy=policy, status=502)} == kinds | {Kind.STALE}


@pytest.mark.parametrize(("method", "idempotent"), [
    ("GET", True), ("HEAD", True), ("OPTIONS", True), ("TRACE", True), ("PUT", True), ("DELETE", True),
    ("POST", False), ("PATCH", False), ("get", False), ("PROPFIND", False)])
def test_idempotent_methods(method: str, idempotent: bool) -> None:
    assert again(Kind.RESET, method=method) is idempotent


def test_the_default_tries_connecting_and_resets_again_but_no_statuses_and_timeouts() -> None:
    tried = {kind for kind in Kind if again(kind, policy=model.Retry(), status=502)}
    assert {kind.retry for kind in tried} == {RetryClass.CONNECT, RetryClass.RESET, RetryClass.STALE}


# ---- the budget

def granted(budget: RetryBudget, now: float, asked: int) -> int:
    return sum(budget.allow(now) for _ in range(asked))


def test_three_in_any_second_without_requests() -> None:
    budget = RetryBudget(0.0)
    assert [granted(budget, second + 0.5, 10) for second in range(20)] == [3] * 20


def test_a_fifth_of_the_requests_of_the_last_ten_seconds() -> None:
    budget = RetryBudget(100.0)
    for i in range(1000):
        budget.request(100.0 + i / 100)
    assert granted(budget, 109.99, 1000) == 200
    assert granted(budget, 109.99, 1000) == 0
    assert granted(budget, 110.5, 10) == 3  # the next second's own


def test_what_is_longer_ago_counts_no_more() -> None:
    budget = RetryBudget(0.0)
    for _ in range(1000):
        budget.request(0.5)
    assert granted(budget, 9.9, 500) == 200
    assert granted(budget, 10.0, 500) == 3
    late = RetryBudget(0.0)
    for _ in range(1000):
        late.request(0.5)
    assert granted(late, 500.0, 500) == 3


def test_retries_count_in_the_window_too() -> None:
    budget = RetryBudget(0.0)
    for _ in range(1000):
        budget.request(0.5)
    assert granted(budget, 0.5, 150) == 150
    assert granted(budget, 5.0, 150) == 50


def test_seconds_keep_their_edges_over_gaps() -> None:
    budget = RetryBudget(0.25)
    for now in (0.3, 3.2, 3.3, 9.0, 40.7, 41.2):
        budget.request(now)
    assert granted(budget, 41.2, 5) == 3
    assert granted(budget, 41.24, 5) == 0
    assert granted(budget, 41.26, 5) == 3


def test_a_steady_load_never_gets_more_than_a_fifth() -> None:
    budget = RetryBudget(0.0)
    allowed = 0
    for i in range(60_000):
        budget.request(i / 1000)
        allowed += budget.allow(i / 1000)
    assert allowed == pytest.approx(12_000, rel=0.02)
