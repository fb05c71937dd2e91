"""Waiting jobs that the lease statement cannot take: they are found after a few bugs, and parked out of others' way."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple
from uuid import UUID

import structlog

from quorra_server.domain.errors import QuorraError
from quorra_server.domain.job import LeaseBatch
from quorra_server.observability.logging import log_incident, log_trouble
from quorra_server.observability.metrics import Metrics
from quorra_server.services.loops.parking import PARKED_SECONDS, TRIES_MAX
from quorra_server.storage import leases
from quorra_server.storage.database import Executor, Pool
from quorra_server.storage.leases import HEAD, Cursor, Take

log = structlog.get_logger(__name__)

# Longer than a job is parked: one that is due again, and meets the bug again, is parked again at once.
REMEMBERED_SECONDS = 2 * PARKED_SECONDS
# Bounds a search, whose transaction keeps the next jobs of the queue to itself: each costs about a dozen leases.
FOUND_MAX = 10

Line = tuple[str, frozenset[str] | None]


class _Met(NamedTuple):
    """How many bugs the leases of a line met, and until when that counts."""

    bugs: int
    until: float


class Untakable:
    """Leases, and parks the jobs that leases meet bugs on. Counts on this server, and parks for all of them."""

    def __init__(self, pool: Pool, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the pool to lease from, where to count, and the clock that says which bugs are long ago."""
        self._pool = pool
        self._metrics = metrics
        self._clock = clock
        self._met: dict[Line, _Met] = {}
        self._searched: set[Line] = set()

    async def lease_jobs(
        self, take: Take, queue: str, types: Sequence[str] | None, limit: int, begin: Cursor = HEAD
    ) -> LeaseBatch | None:
        """Lease at most `limit` jobs; a bug is the caller's as ever, but the third one parks what it comes of first.

        Args:
            take: Leases for one worker, from the queue and of the types that it is told.
        """
        take = partial(take, queue=queue, types=types)
        try:
            return await take(self._pool, limit=limit, begin=begin)
        except QuorraError:
            raise
        except Exception:
            line = (queue, None if types is None else frozenset(types))
            if self._note(line) >= TRIES_MAX and line not in self._searched:
                await self._search(line, take, limit)
            raise

    def _note(self, line: Line) -> int:
        """Note a bug and return how many there were: it may have come of the moment, as when a table was altered."""
        now = self._clock()
        self._met = {other: met for other, met in self._met.items() if now < met.until}
        bugs = self._met[line].bugs + 1 if line in self._met else 1
        self._met[line] = _Met(bugs, now + REMEMBERED_SECONDS)
        return bugs

    async def _search(self, line: Line, take: Take, limit: int) -> None:
        """Park what a lease of so many jobs cannot take, if there is anything."""
        self._searched.add(line)
        try:
            parked = await self._pool.run_transaction(lambda transaction: _park(transaction, line, take, limit))
        except Exception as error:
            # The caller has a bug to tell already, and the next one begins another search.
            log_trouble(log, "lease_search_failed", error, queue=line[0])
            return
        finally:
            self._searched.discard(line)
        for job_id, bug in parked.items():
            self._metrics.incidents.labels("lease_jobs").inc()
            log_incident(log, "job_parked", bug, job=str(job_id), queue=line[0], seconds=PARKED_SECONDS)


async def _park(transaction: Executor, line: Line, take: Take, limit: int) -> dict[UUID, Exception]:
    """Find and park the culprits among the next jobs; return them, each with its bug."""
    # A bug that is met without any job is the statement's own: no job is to blame.
    if await leases.try_lease(transaction, take, limit=0) is not None:
        return {}
    queue, types = line
    waiting = await leases.lock_waiting(transaction, queue=queue, limit=limit, types=sorted(types) if types else None)
    culprits = await _culprits(transaction, take, waiting)
    if culprits:
        await leases.park_waiting(transaction, list(culprits), int(PARKED_SECONDS * 1000))
    return culprits


async def _culprits(transaction: Executor, take: Take, waiting: Sequence[Cursor]) -> dict[UUID, Exception]:
    """Return the first jobs that cannot be taken alone either, at most `FOUND_MAX`, each with its bug.

    Others may let go of jobs in between meanwhile, so that a lease of several takes other ones than these; a lease of
    one takes the very one that it begins at, which is locked.
    """
    culprits: dict[UUID, Exception] = {}
    while waiting and len(culprits) < FOUND_MAX:
        takable = await _count_takable(transaction, take, waiting)
        if takable == len(waiting):
            break
        suspect = waiting[takable]
        bug = await leases.try_lease(transaction, take, limit=1, begin=suspect)
        if bug is None:
            break
        culprits[suspect.job_id] = bug
        waiting = waiting[takable + 1 :]
    return culprits


async def _count_takable(transaction: Executor, take: Take, waiting: Sequence[Cursor]) -> int:
    """Return how many jobs a lease takes that is as large as it can be without a bug."""
    takable, too_many = 0, len(waiting) + 1
    tried = len(waiting)
    while takable + 1 < too_many:
        if await leases.try_lease(transaction, take, limit=tried, begin=waiting[0]) is None:
            takable = tried
        else:
            too_many = tried
        tried = (takable + too_many) // 2
    return takable
