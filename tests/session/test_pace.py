"""The two rules about progress, with an invented clock."""
from __future__ import annotations

from collections.abc import Callable

import pytest

from edgeproxy.session.pace import FLOOR, GRACE, Pace


def ended_at(timeout: float, progress: Callable[[float], int], until: float = 1000.0) -> float | None:
    """When a peer is called too slow whose bytes so far are `progress(now)`; asked just when the pace wants it."""
    pace = Pace(timeout, 0.0, progress(0.0))
    while pace.look_at < until:
        now = pace.look_at
        if pace.too_slow(now, progress(now)):
            return now
        assert pace.look_at > now, "it would be asked for ever at the same time"
    return None


def test_silence_ends_at_the_timeout() -> None:
    assert ended_at(2.0, lambda now: 0) == 2.0


def test_silence_after_some_bytes_ends_within_one_and_a_half_timeouts() -> None:
    ended = ended_at(2.0, lambda now: 1 if now >= 0.5 else 0)
    assert ended is not None and 2.5 <= ended <= 0.5 + 1.5 * 2.0


def test_some_bytes_now_and_then_are_enough_at_first() -> None:
    ended = ended_at(2.0, lambda now: int(now))
    assert ended is not None and ended >= GRACE


def test_a_trickle_ends_after_the_grace() -> None:
    ended = ended_at(60.0, lambda now: int(now * (FLOOR - 1)))
    assert ended is not None and GRACE <= ended <= 2 * GRACE


def test_a_steady_peer_is_never_too_slow() -> None:
    assert ended_at(60.0, lambda now: int(now * (FLOOR + 1))) is None


def test_only_what_came_since_the_beginning_counts() -> None:
    """A connection that took a gigabyte before is no faster for it."""
    assert ended_at(60.0, lambda now: 1 << 30) is not None


@pytest.mark.parametrize("timeout", [0.001, 0.2, 5.0, 60.0])
def test_it_is_asked_at_most_twice_per_timeout_and_once_per_grace(timeout: float) -> None:
    pace = Pace(timeout, 100.0, 0)
    assert pace.look_at == 100.0 + min(timeout / 2, GRACE)


def test_no_timeout_leaves_only_the_average() -> None:
    """`inf`: no limit on silence, as the docstring says; the floor still holds."""
    burst = int(FLOOR * 10_000)
    assert ended_at(float("inf"), lambda now: burst if now else 0, until=5000.0) is None


def test_a_timeout_longer_than_the_grace_is_kept() -> None:
    """`timeouts: {body: 5m}`: a peer far above the floor may be silent for four minutes."""
    burst = int(FLOOR * 10_000)
    ended = ended_at(300.0, lambda now: burst if now else 0)
    assert ended is not None and ended >= 300.0
