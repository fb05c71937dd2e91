"""Watching snapshots: whoever keeps one for long keeps every deleted row, and all who come after walk past those."""

import math
import time
from collections.abc import Callable

from quorra_server.domain.errors import QuorraError
from quorra_server.observability.metrics import Metrics
from quorra_server.storage import statistics
from quorra_server.storage.database import Pool

INTERVAL_SECONDS = 15.0


class WatchSnapshots:
    """Measures how long the oldest snapshot has been held; on every server, each for its own metrics.

    When it was taken is hidden from roles without rights of their own, and for a transaction that takes one for each
    statement its begin says nothing. So its age is counted from when this server first saw that nothing older is held:
    it is too small by an interval at most, and right after a start by as much as the snapshot was older than that.
    """

    def __init__(self, pool: Pool, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the pool to ask through, where to tell, and a clock in seconds that is never set back."""
        self._pool = pool
        self._metrics = metrics
        self._clock = clock
        self._oldest: int | None = None
        self._since = 0.0

    async def run_once(self) -> bool:
        """Look once; while the database is away nobody knows."""
        try:
            oldest = await statistics.find_oldest_snapshot(self._pool)
        except QuorraError:
            self._metrics.oldest_snapshot.set(math.nan)
            raise
        now = self._clock()
        if oldest is None or oldest != self._oldest:
            self._oldest, self._since = oldest, now
        self._metrics.oldest_snapshot.set(now - self._since)
        return False
