"""Folding: the appended count deltas become one summary row for each queue."""

from quorra_server.storage import queues
from quorra_server.storage.database import Pool

INTERVAL_SECONDS = 1.0
DELTAS_MAX = 5_000


class FoldCounts:
    """Folds deltas, on any server."""

    def __init__(self, pool: Pool) -> None:
        """Take the pool to write through."""
        self._pool = pool

    async def run_once(self) -> bool:
        """Fold what is there; never asks for another round at once, so that deltas gather."""
        await queues.fold_counts(self._pool, limit=DELTAS_MAX)
        return False
