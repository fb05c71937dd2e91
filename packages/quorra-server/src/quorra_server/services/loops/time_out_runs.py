"""Timing out: a run past its own timeout ends, although its worker hangs and its heartbeat goes on."""

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

INTERVAL_SECONDS = 1.0
# A worker that lives stops the run at its timeout and reports it; this is long enough for its word to arrive first.
GRACE_SECONDS = 5
RUNS_MAX = 1_000


class TimeOutRuns:
    """Ends runs that are past their timeout, on any server."""

    def __init__(
        self, pool: Pool, wakeups: Wakeups, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the pool to write through, whom to tell, and the clock that says how long a batch is parked."""
        self._pool = pool
        self._wakeups = wakeups
        self._metrics = metrics
        self._parking = Parking("time_out_runs", metrics, clock)

    async def run_once(self) -> bool:
        """End `RUNS_MAX` runs with one statement at most; say whether there may be more."""
        ended = await self._parking.end_overdue(self._end, self._find)
        if not ended:
            return False
        for run in ended:
            self._count(run)
            if run.run_at is not None:
                self._wakeups.work_due(run.queue, run.run_at.timestamp())
        self._wakeups.leases_ended([text_of(run.lease) for run in ended], LOST)
        self._wakeups.jobs_ended([run.lease.job_id for run in ended if run.run_at is None])
        log.info("runs_timed_out", count=len(ended))
        return len(ended) >= RUNS_MAX

    async def _end(self, batches: Sequence[int] | None, besides: Sequence[int]) -> list[leases.TimedOutRun]:
        return await leases.time_out_runs(
            self._pool, grace_ms=GRACE_SECONDS * 1000, limit=RUNS_MAX, batches=batches, besides=besides
        )

    async def _find(self, besides: Sequence[int]) -> list[int]:
        return await leases.find_timed_batches(self._pool, besides=besides)

    def _count(self, run: leases.TimedOutRun) -> None:
        label = self._metrics.queue(run.queue)
        self._metrics.runs_timed_out.labels(label).inc()
        self._metrics.jobs_processed.labels(label).inc()
        self._metrics.jobs_failed.labels(label).inc()
        if run.run_at is None:
            self._metrics.jobs_dead.labels(label).inc()
