"""Leasing the plain way: one request, up to so many jobs, perhaps after a wait. Delivery counts as the start."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

from quorra_server.domain.job import LeaseBatch
from quorra_server.observability.metrics import Metrics
from quorra_server.services.wakeups import Hint, Wakeups
from quorra_server.storage import leases
from quorra_server.storage.database import Pool


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

    def __init__(self, pool: Pool, wakeups: Wakeups, metrics: Metrics, *, poll_seconds: float) -> None:
        """Listen to wake-ups; `poll_seconds` bounds how long lost ones can delay a job."""
        self._pool = pool
        self._metrics = metrics
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
                if left < wish.jobs_max or remaining <= 0:
                    return
                await _wait(woken, min(remaining, self._poll_seconds))

    async def _lease_batch(self, wish: LeaseWish, queue: str, limit: int) -> LeaseBatch | None:
        batch = await leases.lease_jobs(
            self._pool,
            queue=queue,
            limit=limit,
            worker=wish.worker,
            principal=wish.principal,
            lease_ms=wish.lease_ms,
            secret=uuid4(),
            types=list(wish.types) or None,
            delivery_is_start=True,
        )
        if batch is not None:
            self._metrics.jobs_leased.labels(self._metrics.queue(queue)).inc(len(batch.jobs))
            self._metrics.lease_batch.observe(len(batch.jobs))
        return batch

    def _hear(self, hint: Hint) -> None:
        for queue in hint.queues:
            for woken in self._sleepers.get(queue, ()):
                woken.set()

    @contextmanager
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
