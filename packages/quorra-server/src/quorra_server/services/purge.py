"""Purging: waiting jobs of a queue, or dead ones, go for good."""

import math
import time
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from quorra_server.domain.states import JobStatus
from quorra_server.services.bulk import pages
from quorra_server.storage import jobs as store
from quorra_server.storage.database import Pool
from quorra_server.storage.jobs import JobFilter

PAGE_JOBS = 1_000


class Purge(NamedTuple):
    """What a purge did.

    Attributes:
        purged: How many jobs went.
        more: The time was over before none was left; purging again goes on.
    """

    purged: int
    more: bool = False


class PurgeService:
    """Removes jobs and their history, a page at a time."""

    def __init__(self, pool: Pool) -> None:
        """Take the pool to write through."""
        self._pool = pool

    async def purge_queue(self, queue: str, *, seconds_max: float = math.inf) -> Purge:
        """Remove all waiting jobs of a queue; leased ones stay.

        Args:
            queue: Its name.
            seconds_max: After so long no further page is begun.
        """
        deadline = time.monotonic() + seconds_max
        purged = 0
        while page := await store.purge_waiting(self._pool, queue, limit=PAGE_JOBS):
            purged += page
            if time.monotonic() >= deadline:
                return Purge(purged, more=True)
        return Purge(purged)

    async def purge_dead(self, job_ids: Sequence[UUID]) -> Purge:
        """Remove those of some jobs that are dead."""
        return Purge(await store.purge_dead(self._pool, job_ids))

    async def purge_dead_before(self, moment: datetime, *, seconds_max: float = math.inf) -> Purge:
        """Remove all dead jobs that were created before a moment.

        Args:
            moment: With a time zone.
            seconds_max: After so long no further page is begun.
        """
        deadline = time.monotonic() + seconds_max
        wanted = JobFilter(status=JobStatus.DEAD, created_before=moment)
        purged = 0
        async for page in pages(self._pool, wanted, PAGE_JOBS):
            purged += await store.purge_dead(self._pool, page)
            if time.monotonic() >= deadline:
                return Purge(purged, more=True)
        return Purge(purged)
