"""Pruning: finished jobs go when their retention is over, whole days at a time."""

from collections.abc import Awaitable, Callable
from datetime import date, timedelta

import structlog

from quorra_server.domain.errors import QuorraError
from quorra_server.observability.logging import log_trouble
from quorra_server.storage import keys, retention, workers
from quorra_server.storage.database import Pool

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 300.0
PARTITION_DAYS_AHEAD = 8
ROWS_MAX = 1_000
REQUEST_KEYS_KEPT = timedelta(days=1)
SILENT_WORKERS_KEPT = timedelta(minutes=10)


class PruneHistory:
    """Makes partitions ahead, and removes what is past its time."""

    def __init__(self, pool: Pool, *, succeeded_days: int, dead_days: int) -> None:
        """Take the pool to write through, and how long finished jobs stay readable."""
        self._pool = pool
        self._succeeded_for = timedelta(days=succeeded_days)
        self._dead_for = timedelta(days=dead_days)

    async def run_once(self) -> bool:
        """Prune once; say whether rows may be left to prune. A step that fails does not keep the others from theirs."""
        steps = (
            self._make_partitions,
            self._drop_partitions,
            self._forget_workers,
            self._forget_keys,
            self._prune_default,
        )
        return any([await _by_itself(step) for step in steps])

    async def _make_partitions(self) -> bool:
        await retention.make_partitions(self._pool, PARTITION_DAYS_AHEAD)
        return False

    async def _drop_partitions(self) -> bool:
        old = await retention.list_old_partitions(self._pool, self._succeeded_for)
        dropped = [day.isoformat() for day in old if await self._drop_partition(day)]
        if dropped:
            log.info("history_pruned", days=dropped)
        return False

    async def _drop_partition(self, day: date) -> bool:
        """Drop a day and say whether that was done here; one that cannot be dropped does not keep the others."""
        try:
            return await retention.drop_partition(self._pool, day, self._succeeded_for)
        except Exception as error:
            # Always worth a warning: a day that fails in every round fills the disk, and nothing else tells.
            is_bug = not isinstance(error, QuorraError)
            log.warning("day_not_dropped", day=day.isoformat(), error=str(error), exc_info=is_bug)
            return False

    async def _forget_workers(self) -> bool:
        await workers.forget_silent_workers(self._pool, SILENT_WORKERS_KEPT)
        return False

    async def _forget_keys(self) -> bool:
        return ROWS_MAX == await keys.forget_request_keys(self._pool, REQUEST_KEYS_KEPT, limit=ROWS_MAX)

    async def _prune_default(self) -> bool:
        return ROWS_MAX == await retention.prune_default(
            self._pool, self._succeeded_for, self._dead_for, limit=ROWS_MAX
        )


async def _by_itself(step: Callable[[], Awaitable[bool]]) -> bool:
    """Take one step and say what it says; one that fails has left nothing that the next round would not find."""
    try:
        return await step()
    except Exception as error:
        log_trouble(log, "prune_step_failed", error, step=step.__name__)
        return False
