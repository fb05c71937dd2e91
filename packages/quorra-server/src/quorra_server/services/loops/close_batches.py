"""Closing: lease batches all of whose jobs ended are removed, so that the table of leases stays tiny."""

from quorra_server.storage import leases
from quorra_server.storage.database import Pool

INTERVAL_SECONDS = 0.1
# Whoever looks at all batches counts the ended jobs of each one that is still open.
ROUNDS_PER_LOOK_AT_ALL = 20


class CloseBatches:
    """Closes the batches that this server knows to be over, and now and then looks for others.

    Others are those whose jobs were settled through several servers, one by one, or by SQL functions.
    """

    def __init__(self, pool: Pool) -> None:
        """Take the pool to write through."""
        self._pool = pool
        self._over: set[int] = set()
        self._round = 0

    def all_ended(self, batch: int) -> None:
        """Note that all jobs of a batch have an outcome; being wrong costs nothing but a look."""
        self._over.add(batch)

    async def run_once(self) -> bool:
        """Remove what is over; never asks for another round at once, for the rest is still open."""
        over, self._over = self._over, set()
        self._round = (self._round + 1) % ROUNDS_PER_LOOK_AT_ALL
        if self._round == 0:
            await leases.close_batches(self._pool, None)
        elif over:
            await leases.close_batches(self._pool, list(over))
        return False
