"""The recorder of the oracle: a logical replication slot, from which every row version is written to a file."""

import asyncio
import contextlib
from pathlib import Path

import asyncpg

from tests.faults.judging.pgoutput import append_record
from tests.faults.judging.tables import TABLES

SLOT = "quorra_faults"
CHANGES_PER_LOOK = 20_000
LOOK_SECONDS = 0.5
CONNECT_SECONDS_MAX = 5.0
# The last one is what the driver calls a connection that broke in the middle of something.
CONNECTION_ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
PEEK = (
    f"SELECT data FROM pg_logical_slot_peek_binary_changes('{SLOT}', NULL, $1, 'proto_version', '1',"
    f" 'publication_names', '{SLOT}')"
)
# As the judge reads moments.
SESSION = {"datestyle": "ISO", "timezone": "UTC"}
# Commit messages end a transaction; the 8 bytes from here on say where the next one begins.
COMMIT, END_LSN = b"C", slice(10, 18)


class Recorder:
    """Reads the slot again and again; nothing is given up before it is in the file."""

    def __init__(self, database_url: str, path: Path) -> None:
        """Take where PostgreSQL is, past every proxy, and where to write."""
        self._url = database_url
        self._file = path.open("wb")
        self._task: asyncio.Task[None] | None = None
        self._is_finishing = False
        self.transactions = 0

    async def prepare(self) -> None:
        """Publish the tables and make the slot; from now on nothing is missed."""
        connection = await asyncpg.connect(self._url)
        try:
            tables = ", ".join(f"quorra.{table}" for table in TABLES)
            await connection.execute(
                f"CREATE PUBLICATION {SLOT} FOR TABLE {tables} WITH (publish_via_partition_root = true)"
            )
            await _see_that_updates_can_be_published(connection)
            await connection.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", SLOT)
            await self._look(connection)
        finally:
            await connection.close()
        self._task = asyncio.create_task(self._run())

    @property
    def has_failed(self) -> bool:
        """Say whether it ended by itself; a slot that nobody reads fills the disk."""
        return not self._is_finishing and self._task is not None and self._task.done()

    async def finish(self) -> None:
        """Record the rest and stop."""
        assert self._task is not None
        self._is_finishing = True
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        connection = await asyncpg.connect(self._url, server_settings=SESSION)
        # The look that was cut off above may still hold the slot.
        while await connection.fetchval("SELECT active FROM pg_replication_slots WHERE slot_name = $1", SLOT):
            await asyncio.sleep(LOOK_SECONDS)
        while await self._look(connection):
            pass
        await connection.close()
        self._file.close()

    async def _run(self) -> None:
        while True:
            # PostgreSQL is hurt in many ways meanwhile; the slot waits.
            with contextlib.suppress(*CONNECTION_ERRORS):
                connection = await asyncpg.connect(self._url, timeout=CONNECT_SECONDS_MAX, server_settings=SESSION)
                try:
                    while True:
                        if not await self._look(connection):
                            await asyncio.sleep(LOOK_SECONDS)
                finally:
                    connection.terminate()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self, connection: asyncpg.Connection) -> bool:
        """Write what has come, and then release it; say whether there may be more."""
        rows = await connection.fetch(
            PEEK,
            CHANGES_PER_LOOK,
        )
        if not rows:
            return False
        for (message,) in rows:
            append_record(self._file, message)
            self.transactions += message[:1] == COMMIT
        self._file.flush()
        end = int.from_bytes(rows[-1][0][END_LSN], "big")
        await connection.execute("SELECT pg_replication_slot_advance($1, $2::pg_lsn)", SLOT, end)
        return len(rows) >= CHANGES_PER_LOOK


async def _see_that_updates_can_be_published(connection: asyncpg.Connection) -> None:
    """Give tables without a primary key a full replica identity: PostgreSQL refuses to update them otherwise."""
    rows = await connection.fetch(
        """
        SELECT c.oid::regclass::text AS name
        FROM pg_class c
        JOIN pg_partition_tree(c.oid) t ON t.relid = c.oid
        WHERE c.relnamespace = 'quorra'::regnamespace AND c.relkind IN ('r', 'p')
          AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
          AND (c.relname = ANY ($1) OR EXISTS (
              SELECT FROM pg_inherits h WHERE h.inhrelid = c.oid AND h.inhparent::regclass::text = ANY ($2)))
        """,
        list(TABLES),
        [f"quorra.{table}" for table in TABLES],
    )
    for row in rows:
        await connection.execute(f"ALTER TABLE {row['name']} REPLICA IDENTITY FULL")
