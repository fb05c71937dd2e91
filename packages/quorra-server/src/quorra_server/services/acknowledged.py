"""What this server said is durable, lately: where to look for losses after a failover to a standby that was behind."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar
from uuid import UUID

# What a standby that is further behind than this has lost is told as a window of time only.
KEEP_SECONDS = 60.0
# About 20 MB of ids.
ENTRIES_MAX = 200_000

Item = TypeVar("Item")


class _Recent(Generic[Item]):
    """Items of the last minute, in the order in which they came."""

    def __init__(self) -> None:
        self._groups: deque[tuple[float, Sequence[Item]]] = deque()
        self._count = 0

    def add(self, items: Sequence[Item], now: float) -> None:
        self._groups.append((now, items))
        self._count += len(items)
        while self._groups[0][0] < now - KEEP_SECONDS or (self._count > ENTRIES_MAX and len(self._groups) > 1):
            self._count -= len(self._groups.popleft()[1])

    def forget(self, until: float) -> None:
        while self._groups and self._groups[0][0] <= until:
            self._count -= len(self._groups.popleft()[1])

    def all(self) -> list[Item]:
        return [item for _, items in self._groups for item in items]


class Acknowledged:
    """Keeps the ids of a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the clock to forget by."""
        self._clock = clock
        self._jobs: _Recent[UUID] = _Recent()
        self._outcomes: _Recent[tuple[str, int]] = _Recent()

    def jobs(self, ids: Sequence[UUID]) -> None:
        """Remember submissions."""
        self._jobs.add(ids, self._clock())

    def outcomes(self, members: Sequence[tuple[str, int]]) -> None:
        """Remember outcomes, as (job, batch)."""
        self._outcomes.add(members, self._clock())

    def forget(self, seconds_ago: float) -> None:
        """Forget everything but the last so many seconds: it was looked for, and what is missing was reported."""
        until = self._clock() - seconds_ago
        self._jobs.forget(until)
        self._outcomes.forget(until)

    def recent(self) -> tuple[list[UUID], list[tuple[str, int]]]:
        """Return what is remembered: submissions and outcomes."""
        return self._jobs.all(), self._outcomes.all()
