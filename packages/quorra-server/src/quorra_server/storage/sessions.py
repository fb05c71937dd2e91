"""Sessions of the dashboard, by the digest of their id."""

from quorra_server.storage.database import Executor
from quorra_server.storage.statements import statement

OPEN_SESSION = statement("open_session")
USE_SESSION = statement("use_session")
CLOSE_SESSION = statement("close_session")


async def open_session(executor: Executor, digest: bytes, *, idle_ms: int) -> None:
    """Remember a session, and forget those that nobody has used for so long."""
    await executor.fetch(OPEN_SESSION, digest, idle_ms)


async def use_session(executor: Executor, digest: bytes, *, idle_ms: int) -> bool:
    """Say whether a session is open, and keep it so for as long again."""
    return bool(await executor.fetch(USE_SESSION, digest, idle_ms))


async def close_session(executor: Executor, digest: bytes) -> None:
    """End a session."""
    await executor.fetch(CLOSE_SESSION, digest)
