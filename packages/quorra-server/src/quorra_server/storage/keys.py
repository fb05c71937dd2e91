"""Keys that make submissions unique (`live`) or repeatable (`request:<principal>`)."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from quorra_server.storage.database import Executor
from quorra_server.storage.statements import statement

CLAIM_KEYS = statement("claim_keys")
FIND_KEYS = statement("find_keys")
REDIRECT_KEYS = statement("redirect_keys")
FORGET_KEYS = statement("forget_keys")

LIVE_SCOPE = "live"


class Key(NamedTuple):
    """A key within its scope."""

    scope: str
    key: str


class Holder(NamedTuple):
    """The job that has a key, and since when."""

    job_id: UUID
    since: datetime


def request_scope(principal: str) -> str:
    """Return the scope of a caller's idempotency keys."""
    return f"request:{principal}"


async def claim_keys(executor: Executor, claims: Sequence[tuple[Key, UUID]]) -> set[Key]:
    """Claim keys for jobs and return the keys that were free. Of two claims of a key in one call the first wins."""
    ordered = sorted(claims, key=lambda claim: claim[0])
    rows = await executor.fetch(
        CLAIM_KEYS,
        [key.scope for key, _ in ordered],
        [key.key for key, _ in ordered],
        [job_id for _, job_id in ordered],
    )
    return {Key(row["scope"], row["key"]) for row in rows}


async def find_keys(executor: Executor, keys: Sequence[Key]) -> dict[Key, Holder]:
    """Return the jobs that hold keys; free keys are missing."""
    rows = await executor.fetch(FIND_KEYS, [key.scope for key in keys], [key.key for key in keys])
    return {Key(row["scope"], row["key"]): Holder(row["job_id"], row["created_at"]) for row in rows}


async def redirect_keys(executor: Executor, merges: Sequence[tuple[Key, UUID, UUID]]) -> None:
    """Point keys at other jobs than they were claimed for; they are younger than these jobs from then on.

    Args:
        merges: Each key, the job that it was claimed for, and the one that this was merged into.
    """
    await executor.fetch(
        REDIRECT_KEYS,
        [key.scope for key, _, _ in merges],
        [key.key for key, _, _ in merges],
        [claimant for _, claimant, _ in merges],
        [holder for _, _, holder in merges],
    )


async def forget_request_keys(executor: Executor, age: timedelta, *, limit: int) -> int:
    """Forget at most `limit` idempotency keys older than `age` and return how many went."""
    return len(await executor.fetch(FORGET_KEYS, age, limit))
