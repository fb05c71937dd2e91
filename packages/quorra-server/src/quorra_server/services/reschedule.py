"""Rescheduling: a waiting job gets another time, priority, queue or number of retries."""

from datetime import datetime
from uuid import UUID

from quorra_server.domain.errors import IllegalTransition
from quorra_server.domain.job import JobDetails
from quorra_server.services.cancel import get_job
from quorra_server.services.wakeups import Wakeups
from quorra_server.storage import jobs as store
from quorra_server.storage.database import Pool


class RescheduleService:
    """Changes waiting jobs."""

    def __init__(self, pool: Pool, wakeups: Wakeups) -> None:
        """Take the pool to write through, and whom to tell."""
        self._pool = pool
        self._wakeups = wakeups

    async def reschedule_job(
        self,
        job_id: UUID,
        *,
        run_at: datetime | None = None,
        delay_ms: int | None = None,
        priority: int | None = None,
        queue: str | None = None,
        max_retries: int | None = None,
    ) -> JobDetails:
        """Change a job that waits; None leaves a field as it is.

        Raises:
            JobNotFound: No such job.
            IllegalTransition: It does not wait, or has started more often than the new `max_retries` allows.
        """
        moved = await store.reschedule_jobs(
            self._pool,
            [job_id],
            run_at=run_at,
            delay_ms=delay_ms,
            priority=priority,
            queue=queue,
            max_retries=max_retries,
        )
        job = await get_job(self._pool, job_id)
        if not moved:
            raise IllegalTransition(
                f"The job is {job.status.value} after {job.attempts} attempts; only waiting jobs can be changed, and "
                "max_retries cannot be below the attempts made."
            )
        self._wakeups.work_due(job.queue, job.run_at.timestamp())
        return job
