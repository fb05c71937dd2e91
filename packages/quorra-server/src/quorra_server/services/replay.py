"""Replaying: dead jobs get a new life under their id, with a changed payload if wanted."""

from collections.abc import Sequence
from uuid import UUID

from quorra_server.domain.job import JobDetails
from quorra_server.services.wakeups import Wakeups
from quorra_server.storage import jobs as store
from quorra_server.storage.database import Pool


class ReplayService:
    """Replays dead jobs."""

    def __init__(self, pool: Pool, wakeups: Wakeups) -> None:
        """Take the pool to write through, and whom to tell."""
        self._pool = pool
        self._wakeups = wakeups

    async def replay_jobs(self, job_ids: Sequence[UUID], payload: str | None = None) -> list[JobDetails]:
        """Replay those of some jobs that are dead, and return them; the others are left as they are.

        Args:
            job_ids: Unknown ids and jobs that are not dead are passed by.
            payload: JSON text that replaces the payload of every job replayed.
        """
        async with self._pool.transaction() as transaction:
            replayed = await store.replay_dead(transaction, job_ids)
            if payload is not None and replayed:
                await store.replace_payload(transaction, list(replayed), payload)
        self._wakeups.work_ready(set(replayed.values()))
        return await store.get_jobs(self._pool, list(replayed))
