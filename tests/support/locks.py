"""Tables that are locked, so that a statement of the server's stands still for as long as a test wants."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.support.processes import RunningServer

GATE_KEY = 11
# For a trigger: whoever sets it off waits until nobody holds the advisory lock of this key.
GATE_FUNCTION = f"""
CREATE FUNCTION quorra_test_gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared({GATE_KEY});
    RETURN NULL;
END
$$;
"""


@asynccontextmanager
async def locked(server: RunningServer, table: str) -> AsyncIterator[None]:
    """Let nobody else touch a table meanwhile."""
    connection = await asyncpg.connect(server.database_url)
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


async def is_held_up(server: RunningServer, table: str) -> bool:
    """Say whether somebody waits for a table."""
    connection = await asyncpg.connect(server.database_url)
    try:
        return bool(
            await connection.fetchval(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = $1::regclass)", table
            )
        )
    finally:
        await connection.close()
