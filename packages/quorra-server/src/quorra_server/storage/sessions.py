"""Sessions of the dashboard, by the digest of their id."""

from quorra_server.storage.database import Executor
from quorra_server.storage.statements import statement

OPEN_SESSION = statement("open_session")
FIND_SESSION = statement("find_session")
KEEP_SESSION = statement("keep_session")
CLOSE_SESSION = statement("close_session")


async def open_session(executor: Executor, digest: bytes, *, idle_ms: int) -> None:
    """Remember a session, and forget those that nobody has used for so long."""
    await executor.fetch(OPEN_SESSION, digest, idle_ms)


async def find_session(executor: Executor, digest: bytes, *, idle_ms: int, fresh_ms: int) -> bool | None:
    """Say of an open session whether nobody has kept it alive for so long; None if it is not open."""
    rows = await executor.fetch(FIND_SESSION, digest, idle_ms, fresh_ms)
    return bool(rows[0]["is_due"]) if rows else None


async def keep_session(executor: Executor, digest: bytes) -> None:
    """Keep a session alive for as long again."""
    await executor.fetch(KEEP_SESSION, digest)


async def close_session(executor: Executor, digest: bytes) -> None:
    """End a session."""
    await executor.fetch(CLOSE_SESSION, digest)
