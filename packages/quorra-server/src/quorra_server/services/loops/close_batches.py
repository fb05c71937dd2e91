"""Closing: lease batches all of whose jobs ended are removed, so that the table of leases stays tiny."""

from quorra_server.storage import leases
from quorra_server.storage.database import Pool

INTERVAL_SECONDS = 0.1
IDLE_ROUNDS_MAX = 20


class CloseBatches:
    """Closes batches; looks less often while nothing ends."""

    def __init__(self, pool: Pool) -> None:
        """Take the pool to write through."""
        self._pool = pool
        self._idle_rounds = 0
        self._skip = 0

    async def run_once(self) -> bool:
        """Remove what is settled; never asks for another round at once, for the rest is still open."""
        if self._skip > 0:
            self._skip -= 1
            return False
        closed = await leases.close_batches(self._pool, None)
        self._idle_rounds = 0 if closed else min(self._idle_rounds + 1, IDLE_ROUNDS_MAX)
        self._skip = self._idle_rounds
        return False
