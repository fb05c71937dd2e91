"""Leasing the plain way: one request, up to so many jobs, perhaps after a wait. Delivery counts as the start."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

from quorra_server.domain.errors import QuorraError
from quorra_server.domain.job import LeaseBatch, LeaseId
from quorra_server.observability.metrics import Metrics
from quorra_server.services.settle import SettleService
from quorra_server.services.untakable import Untakable
from quorra_server.services.wakeups import Hint, Wakeups
from quorra_server.storage import leases
from quorra_server.storage.database import Pool

GONE = "the worker went away before it was sent the job"


@dataclass(frozen=True, slots=True)
class LeaseWish:
    """What a plain worker asks for; queues are asked in the order given."""

    worker: str
    principal: str
    queues: Sequence[str]
    types: Sequence[str]
    jobs_max: int
    lease_ms: int
    wait_seconds: float


class LeaseService:
    """Leases for workers that speak the plain protocol."""

    def __init__(
        self, pool: Pool, wakeups: Wakeups, metrics: Metrics, settle: SettleService, *, poll_seconds: float
    ) -> None:
        """Listen to wake-ups; `poll_seconds` bounds how long lost ones can delay a job."""
        self._untakable = Untakable(pool, metrics)
        self._metrics = metrics
        self._settle = settle
        self._is_stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._poll_seconds = poll_seconds
        self._sleepers: dict[str, set[asyncio.Event]] = {}
        wakeups.listen(self._hear)

    async def lease_jobs(self, wish: LeaseWish, is_here: Callable[[], None]) -> AsyncIterator[LeaseBatch]:
        """Yield lease batches until the wish is fulfilled, or nothing is due; wait for the first job if asked to.

        Calls `is_here` now and then for as long as the worker asks.

        Raises:
            StorageUnavailable: Jobs that were leased already are in the batches yielded before.
        """
        deadline = time.monotonic() + wish.wait_seconds
        with self._sleeper(wish.queues) as woken:
            while True:
                woken.clear()
                is_here()
                left = wish.jobs_max
                for queue in wish.queues:
                    batch = await self._lease_batch(wish, queue, left) if left else None
                    if batch is not None:
                        left -= len(batch.jobs)
                        yield batch
                remaining = deadline - time.monotonic()
                if left < wish.jobs_max or remaining <= 0 or self._is_stopping:
                    return
                await _wait(woken, min(remaining, self._poll_seconds))

    def give_back(self, unsent: Sequence[LeaseId], principal: str) -> None:
        """Release what was leased for a worker that has gone: its delivery would count as a start."""
        self._track(self._settle.release_unsent(unsent, principal, GONE))

    def stop_waiting(self) -> None:
        """Let all who wait for a job go without one, and whoever comes from now on."""
        self._is_stopping = True
        for sleepers in self._sleepers.values():
            for woken in sleepers:
                woken.set()

    async def flush(self) -> None:
        """Wait until everything is given back that was to be."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _lease_batch(self, wish: LeaseWish, queue: str, limit: int) -> LeaseBatch | None:
        take = partial(
            leases.lease_jobs,
            worker=wish.worker,
            principal=wish.principal,
            lease_ms=wish.lease_ms,
            secret=uuid4(),
            delivery_is_start=True,
        )
        leasing = asyncio.create_task(self._untakable.lease_jobs(take, queue, list(wish.types) or None, limit))
        try:
            batch = await asyncio.shield(leasing)
        except asyncio.CancelledError:
            self._track(self._give_back_leased(leasing, wish.principal))
            raise
        if batch is not None:
            self._metrics.jobs_leased.labels(self._metrics.queue(queue)).inc(len(batch.jobs))
            self._metrics.lease_batch.observe(len(batch.jobs))
        return batch

    async def _give_back_leased(self, leasing: "asyncio.Task[LeaseBatch | None]", principal: str) -> None:
        """Release what a lease took whose worker went away while it ran."""
        with contextlib.suppress(QuorraError):
            batch = await leasing
            if batch is not None:
                await self._settle.release_unsent(batch.lease_ids(), principal, GONE)

    def _track(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _hear(self, hint: Hint) -> None:
        for queue in hint.queues:
            for woken in self._sleepers.get(queue, ()):
                woken.set()

    @contextlib.contextmanager
    def _sleeper(self, queues: Sequence[str]) -> Iterator[asyncio.Event]:
        woken = asyncio.Event()
        for queue in queues:
            self._sleepers.setdefault(queue, set()).add(woken)
        try:
            yield woken
        finally:
            for queue in queues:
                self._sleepers[queue].discard(woken)
                if not self._sleepers[queue]:
                    del self._sleepers[queue]


async def _wait(woken: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(woken.wait(), seconds)
    except TimeoutError:
        return
