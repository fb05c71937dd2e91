"""Waiting for the end of a job: woken by what this server settles, and by one look a round for all who wait."""

import asyncio
import contextlib
from collections.abc import Iterable
from uuid import UUID

import structlog

from quorra_server.domain.errors import QuorraError
from quorra_server.domain.job import JobDetails
from quorra_server.domain.states import TERMINAL
from quorra_server.observability.logging import log_trouble
from quorra_server.services.cancel import get_job
from quorra_server.services.wakeups import Wakeups
from quorra_server.storage import jobs as store
from quorra_server.storage.database import Pool

log = structlog.get_logger(__name__)

# Jobs that end on another server are found by this round, whatever the number of callers.
ROUND_SECONDS = 0.5


class WaitService:
    """Answers callers when their jobs end."""

    def __init__(self, pool: Pool, wakeups: Wakeups) -> None:
        """Take the pool to read through."""
        self._pool = pool
        self._waiting: dict[UUID, set[asyncio.Event]] = {}
        self._round: asyncio.Task[None] | None = None
        self._is_stopped = False
        wakeups.listen_for_ends(self._hear)

    async def wait_for_end(self, job_id: UUID, seconds: float) -> JobDetails:
        """Return a job when its life is over, or as it is after so many seconds.

        Raises:
            JobNotFound: No such job.
        """
        ended = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(ended)
        try:
            job = await get_job(self._pool, job_id)
            if job.status in TERMINAL or seconds <= 0 or self._is_stopped:
                return job
            if self._round is None or self._round.done():
                self._round = asyncio.create_task(self._look())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), seconds)
            return await get_job(self._pool, job_id)
        finally:
            self._waiting[job_id].discard(ended)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def stop(self) -> None:
        """Let all callers go with the job as it is, and whoever comes from now on."""
        self._is_stopped = True
        if self._round is not None:
            self._round.cancel()
            await asyncio.gather(self._round, return_exceptions=True)
        self._hear(list(self._waiting))

    def _hear(self, job_ids: Iterable[UUID]) -> None:
        if not self._waiting:
            return
        for job_id in job_ids:
            for ended in self._waiting.get(job_id, ()):
                ended.set()

    async def _look(self) -> None:
        while self._waiting:
            await asyncio.sleep(ROUND_SECONDS)
            try:
                self._hear(list(await store.find_ended(self._pool, list(self._waiting))))
            except QuorraError as error:
                log_trouble(log, "wait_round_failed", error)
