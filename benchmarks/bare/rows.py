"""The statements of the bare queue."""

from collections.abc import Sequence
from typing import cast

import asyncpg

_SCHEMA = """
CREATE TABLE bare_posted (id bigserial PRIMARY KEY, payload json NOT NULL);
CREATE TABLE bare_jobs (id bigserial PRIMARY KEY, payload json NOT NULL);
CREATE TABLE bare_ended (id bigint PRIMARY KEY)
"""
_FILL = "INSERT INTO bare_jobs (payload) SELECT $1::text::json FROM generate_series(1, $2)"
_POST = "INSERT INTO bare_posted (payload) SELECT unnest($1::text[])::json RETURNING id"
_TAKE = """
DELETE FROM bare_jobs
WHERE ctid = ANY (ARRAY(SELECT ctid FROM bare_jobs WHERE id > $1 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED))
RETURNING id, payload
"""
_END = "INSERT INTO bare_ended SELECT unnest($1::bigint[])"


class BareRows:
    """Jobs, and those that have ended, over one connection: one statement at a time."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        """Take a connection to a database that has the tables."""
        self._connection = connection
        self._last_taken = 0

    @classmethod
    async def open(cls, database_url: str) -> "BareRows":
        """Connect."""
        return cls(await asyncpg.connect(database_url))

    async def make_tables(self) -> None:
        """Make the tables."""
        await self._connection.execute(_SCHEMA)

    async def fill(self, count: int, payload: str) -> None:
        """Let so many jobs wait."""
        await self._connection.execute(_FILL, payload, count)

    async def post(self, payloads: Sequence[str]) -> list[int]:
        """Put jobs in that do not wait to be taken, and return their numbers."""
        return [number for (number,) in await self._connection.fetch(_POST, payloads)]

    async def take(self, limit: int) -> list[tuple[int, str]]:
        """Take the next jobs that wait out, oldest first, and return their numbers and payloads."""
        rows = cast("list[tuple[int, str]]", await self._connection.fetch(_TAKE, self._last_taken, limit))
        self._last_taken = max((number for number, _ in rows), default=self._last_taken)
        return rows

    async def end(self, numbers: Sequence[int]) -> None:
        """Note that jobs have ended."""
        await self._connection.execute(_END, numbers)

    @property
    def backend_pid(self) -> int:
        """The process in PostgreSQL that serves the connection."""
        return int(self._connection.get_server_pid())

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()
