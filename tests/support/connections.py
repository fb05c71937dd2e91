"""Connections of every kind that the SDK takes, behind one asynchronous face for tests."""

import inspect
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psycopg
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

KINDS = (
    "asyncpg", "asyncpg pool", "psycopg", "psycopg async", "sqlalchemy", "sqlalchemy session", "sqlalchemy asyncpg",
    "sqlalchemy psycopg async", "sqlalchemy async session",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class User:
    """A user of the database: a connection of some kind."""

    connection: Any

    async def execute(self, statement: str) -> None:
        is_sqlalchemy = any(kind.__module__.startswith("sqlalchemy") for kind in type(self.connection).__mro__)
        await finished(self.connection.execute(sqlalchemy.text(statement) if is_sqlalchemy else statement))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Hold a transaction of the user's own."""
        begin = getattr(self.connection, "transaction", None) or self.connection.begin
        async with entered(begin()):
            yield


@asynccontextmanager
async def entered(manager: Any) -> AsyncIterator[Any]:
    """Enter a context manager of either kind."""
    if hasattr(manager, "__aenter__"):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value


async def finished(value: Any) -> Any:
    """Return a value, or what an awaitable gives."""
    return await value if inspect.isawaitable(value) else value


@asynccontextmanager
async def connected(kind: str, url: str) -> AsyncIterator[User]:
    """Connect in one of the `KINDS`."""
    if kind == "asyncpg":
        connection = await asyncpg.connect(url)
        yield User(connection)
        await connection.close()
    elif kind == "asyncpg pool":
        async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool, pool.acquire() as connection:
            yield User(connection)
    elif kind == "psycopg":
        with psycopg.connect(url) as psycopg_connection:
            yield User(psycopg_connection)
    elif kind == "psycopg async":
        async with await psycopg.AsyncConnection.connect(url) as psycopg_async:
            yield User(psycopg_async)
    elif "async" in kind:
        engine = create_async_engine(
            _with_driver(url, "psycopg" if "psycopg" in kind else "asyncpg"), poolclass=NullPool
        )
        async with AsyncSession(engine) if "session" in kind else engine.connect() as sqlalchemy_async:
            yield User(sqlalchemy_async)
        await engine.dispose()
    else:
        sync_engine = sqlalchemy.create_engine(_with_driver(url, "psycopg"), poolclass=NullPool)
        with Session(sync_engine) if "session" in kind else sync_engine.connect() as sqlalchemy_connection:
            yield User(sqlalchemy_connection)
        sync_engine.dispose()


def _with_driver(url: str, driver: str) -> str:
    return urlunsplit(urlsplit(url)._replace(scheme=f"postgresql+{driver}"))


__all__: Sequence[str] = ("KINDS", "User", "connected", "entered", "finished")
