"""Retrying: a job that backs off or is delayed runs now; a dead one gets a new life."""

from collections.abc import Sequence
from uuid import UUID

from quorra_server.domain.errors import IllegalTransition
from quorra_server.domain.job import JobDetails
from quorra_server.services.bulk import BulkResult, on_all_matching
from quorra_server.services.cancel import get_job
from quorra_server.services.wakeups import Wakeups
from quorra_server.storage import jobs as store
from quorra_server.storage.database import Pool
from quorra_server.storage.jobs import JobFilter


class RetryService:
    """Makes jobs run now, one or many."""

    def __init__(self, pool: Pool, wakeups: Wakeups) -> None:
        """Take the pool to write through, and whom to tell."""
        self._pool = pool
        self._wakeups = wakeups

    async def retry_job(self, job_id: UUID) -> JobDetails:
        """Run a failed or delayed job now, or replay a dead one.

        Raises:
            JobNotFound: No such job.
            IllegalTransition: It is due, runs, or ended well; or its unique key belongs to a newer job.
        """
        if not await self._retry([job_id]):
            job = await get_job(self._pool, job_id)
            raise IllegalTransition(
                f"The job is {job.status.value}; only failed, delayed and dead jobs can be retried"
                + (", and no other live job may have its unique key." if job.unique_key else ".")
            )
        return await get_job(self._pool, job_id)

    async def retry_matching(self, wanted: JobFilter, *, dry_run: bool) -> BulkResult:
        """Retry all jobs that match, or count them in a dry run."""
        return await on_all_matching(self._pool, wanted, self._retry, dry_run=dry_run)

    async def _retry(self, job_ids: Sequence[UUID]) -> int:
        hurried = await store.retry_waiting(self._pool, job_ids)
        replayed = await store.replay_dead(self._pool, [job_id for job_id in job_ids if job_id not in hurried])
        self._wakeups.work_ready({*hurried.values(), *replayed.values()})
        return len(hurried) + len(replayed)
