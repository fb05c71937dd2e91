"""Cancelling: final at once for a job that waits; ends the lease of one that runs, and tells its handler."""

from collections.abc import Sequence
from uuid import UUID

from quorra_server.domain.errors import Conflict, IllegalTransition, JobNotFound
from quorra_server.domain.job import JobDetails
from quorra_server.domain.states import TERMINAL, JobStatus
from quorra_server.services.bulk import BulkResult, on_all_matching
from quorra_server.services.lease_ids import text_of
from quorra_server.services.renew import CANCELLED
from quorra_server.services.wakeups import Wakeups
from quorra_server.storage import jobs as store
from quorra_server.storage import leases
from quorra_server.storage.database import Pool
from quorra_server.storage.jobs import JobFilter

# A job may be leased or put back between two looks at it; more often than this in a row means it never rests.
ROUNDS_MAX = 3


class CancelService:
    """Cancels jobs, one or many."""

    def __init__(self, pool: Pool, wakeups: Wakeups) -> None:
        """Take the pool to write through, and whom to tell."""
        self._pool = pool
        self._wakeups = wakeups

    async def cancel_job(self, job_id: UUID, reason: str | None = None) -> JobDetails:
        """Cancel one job; cancelling twice is fine.

        Raises:
            JobNotFound: No such job.
            IllegalTransition: It succeeded or is dead already.
        """
        for _ in range(ROUNDS_MAX):
            await self._cancel([job_id], reason)
            job = await get_job(self._pool, job_id)
            if job.status is JobStatus.CANCELLED:
                return job
            if job.status in TERMINAL:
                raise IllegalTransition(
                    f"The job is {job.status.value} already; only jobs that are not over can be cancelled."
                )
        raise Conflict("The job changes too quickly to be cancelled; repeat the request.")

    async def cancel_matching(self, wanted: JobFilter, reason: str | None, *, dry_run: bool) -> BulkResult:
        """Cancel all jobs that match, or count them in a dry run."""

        async def cancel(job_ids: Sequence[UUID]) -> int:
            return await self._cancel(job_ids, reason)

        return await on_all_matching(self._pool, wanted, cancel, dry_run=dry_run)

    async def _cancel(self, job_ids: Sequence[UUID], reason: str | None) -> int:
        waiting = await store.cancel_waiting(self._pool, job_ids, reason)
        held = await leases.cancel_held(self._pool, [job_id for job_id in job_ids if job_id not in waiting], reason)
        if held:
            self._wakeups.leases_ended([text_of(ended.lease) for ended, _ in held], CANCELLED)
        self._wakeups.jobs_ended([*waiting, *(ended.lease.job_id for ended, _ in held)])
        return len(waiting) + len(held)


async def get_job(pool: Pool, job_id: UUID) -> JobDetails:
    """Read one job.

    Raises:
        JobNotFound: No such job, or it is past its retention time.
    """
    found = await store.get_jobs(pool, [job_id])
    if not found:
        raise JobNotFound(f"There is no job {job_id}: check the id, or it is past its retention time.")
    return found[0]
