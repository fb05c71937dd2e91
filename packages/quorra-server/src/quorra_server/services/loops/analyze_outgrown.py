"""Statistics: plans made while a table was empty are made anew as soon as it is not, not when autovacuum comes by.

A table that was vacuumed while it was empty (tomorrow's partition, by a nightly `vacuumdb`) counts as empty until it is
analysed, and a plan that reads all of it for each job seems as good as one that looks the job up.
"""

from quorra_server.storage import statistics
from quorra_server.storage.database import Pool

INTERVAL_SECONDS = 1.0


class AnalyzeOutgrown:
    """Looks after the statistics of small tables, on any server."""

    def __init__(self, pool: Pool) -> None:
        """Take the pool to work through."""
        self._pool = pool

    async def run_once(self) -> bool:
        """Analyse what has outgrown its statistics; once a second is enough."""
        await statistics.analyze_outgrown(self._pool)
        return False
