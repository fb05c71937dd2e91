"""Parking: a lease batch whose end meets a bug is left alone for a while, so that it holds up no other."""

import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeVar

import structlog

from quorra_server.domain.errors import QuorraError
from quorra_server.observability.logging import log_incident
from quorra_server.observability.metrics import Metrics
from quorra_server.services.halves import by_halves

log = structlog.get_logger(__name__)

# A bug may have come of the moment, as when a table was altered just then.
TRIES_MAX = 3
PAUSE_SECONDS = 1.0
# Long enough for a log that can be read, and short enough that nobody has to do anything once the bug is mended.
PARKED_SECONDS = 60.0

Ended = TypeVar("Ended")
# Ends what is overdue in some batches or (None) in all, besides some others.
End = Callable[[Sequence[int] | None, Sequence[int]], Awaitable[list[Ended]]]
# Names the batches in which something may be overdue, besides some others.
Find = Callable[[Sequence[int]], Awaitable[list[int]]]


class _Met(NamedTuple):
    """How often a batch met a bug, and until when it is left alone."""

    tries: int
    until: float


class Parking:
    """Remembers, on this server and until it ends, which lease batches met a bug."""

    def __init__(self, loop: str, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        """Take whose batches these are, for the log, where to count, and the clock to count pauses with."""
        self._loop = loop
        self._metrics = metrics
        self._clock = clock
        self._met: dict[int, _Met] = {}

    async def end_overdue(self, end: End[Ended], find: Find) -> list[Ended]:
        """End what is overdue: all of it together, or after a bug in parts, so that only what meets the bug stays.

        Raises:
            QuorraError: PostgreSQL does not take it now; the next round does it.
        """
        besides = self._left_alone()
        try:
            return await end(None, besides)
        except QuorraError:
            raise
        except Exception as bug:
            # A bug that is met without any batch is the statement's own: no batch is to blame, and the round fails.
            await end([], [])
            return await self._end_apart(end, await find(besides), bug)

    async def _end_apart(self, end: End[Ended], batches: Sequence[int], bug: Exception) -> list[Ended]:
        ended: list[Ended] = []
        # What PostgreSQL does not take now is for the next round; what has ended must be told all the same.
        with contextlib.suppress(QuorraError):
            async for part in by_halves(lambda half: end(half, []), batches, bug, self._blame):
                ended.extend(part)
        return ended

    def _left_alone(self) -> list[int]:
        now = self._clock()
        # A batch that was not met again long after its pause has ended meanwhile.
        self._met = {batch: met for batch, met in self._met.items() if now < met.until + PARKED_SECONDS}
        return [batch for batch, met in self._met.items() if now < met.until]

    def _blame(self, batch: int, bug: Exception) -> None:
        """Leave a batch alone: for a moment at first, and for long once it met a bug `TRIES_MAX` times."""
        tries = self._met[batch].tries + 1 if batch in self._met else 1
        if tries < TRIES_MAX:
            self._met[batch] = _Met(tries, self._clock() + PAUSE_SECONDS)
            log.warning("batch_met_bug", loop=self._loop, batch=batch, error=type(bug).__name__)
            return
        self._met[batch] = _Met(tries, self._clock() + PARKED_SECONDS)
        self._metrics.incidents.labels(self._loop).inc()
        log_incident(log, "batch_parked", bug, loop=self._loop, batch=batch, seconds=PARKED_SECONDS)
