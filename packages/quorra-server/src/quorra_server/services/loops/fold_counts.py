"""Folding: the appended count deltas become one summary row for each queue, and what came by SQL is counted."""

from quorra_server.observability.metrics import Metrics
from quorra_server.storage import queues
from quorra_server.storage.database import Pool

INTERVAL_SECONDS = 1.0
DELTAS_MAX = 5_000


class FoldCounts:
    """Folds deltas, on any server."""

    def __init__(self, pool: Pool, metrics: Metrics) -> None:
        """Take the pool to write through, and where to count what the functions for SQL did."""
        self._pool = pool
        self._metrics = metrics

    async def run_once(self) -> bool:
        """Fold once; say whether more may be left. After the last of them deltas gather until the next round."""
        folded = await queues.fold_counts(self._pool, limit=DELTAS_MAX)
        for counted in folded:
            queue = self._metrics.queue(counted.queue)
            self._metrics.jobs_created.labels(queue).inc(counted.created)
            self._metrics.jobs_processed.labels(queue).inc(counted.processed)
            self._metrics.jobs_failed.labels(queue).inc(counted.failed)
            self._metrics.jobs_dead.labels(queue).inc(counted.dead)
        return sum(counted.deltas for counted in folded) == DELTAS_MAX
