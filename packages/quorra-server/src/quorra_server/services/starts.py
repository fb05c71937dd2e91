"""Starts: reported at once, written at most 100 ms later, and only for runs that have not ended by then."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable

import structlog

from quorra_server.domain.errors import StorageUnavailable
from quorra_server.domain.job import LeaseId
from quorra_server.observability.logging import log_trouble
from quorra_server.services.ending import end_tasks
from quorra_server.storage import leases
from quorra_server.storage.database import Pool
from quorra_server.storage.leases import Member

log = structlog.get_logger(__name__)

HOLD_SECONDS = 0.05
ROUND_SECONDS = 0.05


class StartsBuffer:
    """Holds starts for a moment, so that short runs need no write of their own."""

    def __init__(self, pool: Pool) -> None:
        """Take the pool to write through."""
        self._pool = pool
        self._held: dict[Member, tuple[LeaseId, str, float]] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, lease: LeaseId, principal: str, ago_ms: int) -> None:
        """Hold the start of a run."""
        self._held.setdefault(lease[:2], (lease, principal, time.monotonic() - ago_ms / 1000))

    def forget(self, ended: Iterable[LeaseId]) -> None:
        """Drop the starts of runs that ended: their outcome brings the start along."""
        if self._held:
            for lease in ended:
                self._held.pop(lease[:2], None)

    async def flush(self) -> None:
        """Write everything that is held, so that a job that killed its worker is charged."""
        await self._write(older_than=time.monotonic())

    def start(self) -> None:
        """Begin to write in rounds."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Write what is held and stop."""
        if self._task is not None:
            await end_tasks([self._task])
        await self.flush()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(ROUND_SECONDS)
            if self._held:
                await self._write(older_than=time.monotonic() - HOLD_SECONDS)

    async def _write(self, *, older_than: float) -> None:
        now = time.monotonic()
        by_principal: dict[str, list[tuple[LeaseId, int]]] = defaultdict(list)
        for lease, principal, started in self._held.values():
            if started <= older_than:
                by_principal[principal].append((lease, int((now - started) * 1000)))
        for principal, starts in by_principal.items():
            try:
                await leases.mark_started(self._pool, principal, starts)
            except StorageUnavailable as error:
                # They stay held: the next round tries again.
                log_trouble(log, "starts_not_written", error, count=len(starts))
                continue
            except Exception as error:
                # Tried again, they would fail again and hold up all others. A start decides nothing by itself.
                log_trouble(log, "starts_not_taken", error, count=len(starts))
            self.forget(lease for lease, _ in starts)
