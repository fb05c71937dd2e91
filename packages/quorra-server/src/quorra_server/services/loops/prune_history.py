"""Pruning: finished jobs go when their retention is over, whole days at a time."""

from datetime import timedelta

import structlog

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
        """Prune once; say whether rows may be left to prune."""
        await retention.make_partitions(self._pool, PARTITION_DAYS_AHEAD)
        dropped = await retention.drop_partitions(self._pool, self._succeeded_for, self._dead_for)
        if dropped:
            log.info("history_pruned", days=[day.isoformat() for day in dropped])
        await workers.forget_silent_workers(self._pool, SILENT_WORKERS_KEPT)
        forgotten = await keys.forget_request_keys(self._pool, REQUEST_KEYS_KEPT, limit=ROWS_MAX)
        pruned = await retention.prune_default(self._pool, self._succeeded_for, self._dead_for, limit=ROWS_MAX)
        return ROWS_MAX in (forgotten, pruned)
