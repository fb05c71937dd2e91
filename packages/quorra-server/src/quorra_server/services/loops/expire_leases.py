"""Expiry: jobs of workers that fell silent go back to their queue."""

import time
from collections.abc import Callable, Sequence

import structlog

from quorra_server.observability.metrics import Metrics
from quorra_server.services.lease_ids import text_of
from quorra_server.services.loops.parking import Parking
from quorra_server.services.renew import LOST
from quorra_server.services.wakeups import Wakeups
from quorra_server.storage import leases
from quorra_server.storage.database import Pool

log = structlog.get_logger(__name__)

# Half a second keeps "leased again by its expiry + 2 s" with room for a slow round.
INTERVAL_SECONDS = 0.5
BATCHES_MAX = 50


class ExpireLeases:
    """Ends overdue leases, on any server: batches that another one works on are passed by."""

    def __init__(
        self, pool: Pool, wakeups: Wakeups, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the pool to write through, whom to tell, and the clock that says how long a batch is parked."""
        self._pool = pool
        self._wakeups = wakeups
        self._metrics = metrics
        self._parking = Parking("expire_leases", metrics, clock)

    async def run_once(self) -> bool:
        """End at most `BATCHES_MAX` overdue lease batches; say whether there were any that could be ended."""
        expired = await self._parking.end_overdue(self._end, self._find)
        for ended in expired:
            label = self._metrics.queue(ended.queue)
            self._metrics.leases_expired.labels(label).inc()
            if ended.started:
                self._metrics.jobs_processed.labels(label).inc()
                self._metrics.jobs_failed.labels(label).inc()
            if ended.is_dead:
                self._metrics.jobs_dead.labels(label).inc()
            if ended.run_at is not None:
                self._wakeups.work_due(ended.queue, ended.run_at.timestamp())
        self._wakeups.jobs_ended([ended.lease.job_id for ended in expired if ended.is_dead])
        if expired:
            self._wakeups.leases_ended([text_of(ended.lease) for ended in expired], LOST)
            log.info("leases_expired", count=len(expired), started=sum(ended.started for ended in expired))
        return bool(expired)

    async def _end(self, batches: Sequence[int] | None, besides: Sequence[int]) -> list[leases.ExpiredLease]:
        return await leases.expire_leases(self._pool, limit=BATCHES_MAX, batches=batches, besides=besides)

    async def _find(self, besides: Sequence[int]) -> list[int]:
        return await leases.find_overdue(self._pool, limit=BATCHES_MAX, besides=besides)
