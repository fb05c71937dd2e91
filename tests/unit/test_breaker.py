"""The breaker: one try and one word a second while PostgreSQL refuses. The clock is the test's."""

import pytest
import structlog
from quorra_server.domain.errors import StorageUnavailable
from quorra_server.storage.breaker import PAUSE_SECONDS, Breaker


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def admitted(breaker: Breaker, callers: int) -> int:
    """Return how many of some callers are let through."""
    count = 0
    for _ in range(callers):
        try:
            breaker.admit()
        except StorageUnavailable:
            continue
        count += 1
    return count


def test_a_closed_breaker_lets_everybody_through() -> None:
    assert 10 == admitted(Breaker(Clock()), 10)


def test_an_open_one_lets_one_through_in_each_pause_until_it_succeeds() -> None:
    clock = Clock()
    breaker = Breaker(clock)

    breaker.trip(OSError("no route"))
    at_once = admitted(breaker, 10)
    clock.now += PAUSE_SECONDS
    later = admitted(breaker, 10)
    breaker.close()
    afterwards = admitted(breaker, 10)

    assert (0, 1, 10) == (at_once, later, afterwards)


def test_callers_are_told_why_and_when_to_come_back() -> None:
    breaker = Breaker(Clock())
    breaker.trip(OSError("no route"))

    with pytest.raises(StorageUnavailable, match="OSError") as refused:
        breaker.admit()

    assert PAUSE_SECONDS == refused.value.retry_after_seconds


def test_a_hundred_failures_of_a_second_are_one_line() -> None:
    clock = Clock()
    breaker = Breaker(clock)

    with structlog.testing.capture_logs() as lines:
        for _ in range(300):
            breaker.trip(OSError("no route"))
            clock.now += 0.01
        breaker.close()

    assert ["database_refuses"] * 3 + ["database_back"] == [line["event"] for line in lines]
