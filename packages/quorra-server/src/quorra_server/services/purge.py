"""Purging: waiting jobs of a queue, or dead ones, go for good."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from quorra_server.domain.states import JobStatus
from quorra_server.services.bulk import on_all_matching
from quorra_server.storage import jobs as store
from quorra_server.storage.database import Pool
from quorra_server.storage.jobs import JobFilter

PAGE_JOBS = 1_000


class PurgeService:
    """Removes jobs and their history."""

    def __init__(self, pool: Pool) -> None:
        """Take the pool to write through."""
        self._pool = pool

    async def purge_queue(self, queue: str) -> int:
        """Remove all waiting jobs of a queue and return how many went; leased ones stay."""
        purged = 0
        while page := await store.purge_waiting(self._pool, queue, limit=PAGE_JOBS):
            purged += page
        return purged

    async def purge_dead(self, job_ids: Sequence[UUID]) -> int:
        """Remove those of some jobs that are dead and return how many went."""
        return await store.purge_dead(self._pool, job_ids)

    async def purge_dead_before(self, moment: datetime) -> int:
        """Remove all dead jobs that were created before a moment and return how many went."""
        wanted = JobFilter(status=JobStatus.DEAD, created_before=moment)
        return (await on_all_matching(self._pool, wanted, self.purge_dead, dry_run=False)).changed
