"""Operators' verbs on everything that matches a filter: counted first, then done page by page."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from quorra_server.storage import jobs as store
from quorra_server.storage.database import Pool
from quorra_server.storage.jobs import JobFilter, Position

PAGE_JOBS = 500


@dataclass(frozen=True, slots=True)
class BulkResult:
    """How many jobs matched a filter, and how many the verb changed (0 in a dry run)."""

    matched: int
    changed: int


async def on_all_matching(
    pool: Pool,
    wanted: JobFilter,
    change: Callable[[Sequence[UUID]], Awaitable[int]],
    *,
    dry_run: bool,
) -> BulkResult:
    """Count the jobs that match, and unless it is a dry run apply `change` to them, a page at a time.

    Every job is decided by its own guarded statement: one that moved on meanwhile is matched, but not changed.
    """
    matched = changed = 0
    async for page in pages(pool, wanted, PAGE_JOBS):
        matched += len(page)
        if not dry_run:
            changed += await change(page)
    return BulkResult(matched, changed)


async def pages(pool: Pool, wanted: JobFilter, limit: int) -> AsyncIterator[list[UUID]]:
    """Yield the jobs that match, at most `limit` at a time; each page is read when it is asked for."""
    after: Position | None = None
    while page := await store.list_jobs(pool, wanted, limit=limit, after=after):
        after = page[-1]
        yield [position.job_id for position in page]
