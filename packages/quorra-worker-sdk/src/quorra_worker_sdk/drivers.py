"""Drivers: how each kind of connection runs one statement and one transaction. None of them is a dependency."""

import re
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

PARAMETER = re.compile(r"\$(\d+)")


class SyncConnection(Protocol):
    """A `psycopg.Connection`, or SQLAlchemy's `Connection` or `Session`."""

    def close(self) -> None:
        """Close it."""


class _AsyncConnection(Protocol):
    def close(self) -> Coroutine[Any, Any, Any]: ...


# A connection of asyncpg, also from its pool, a `psycopg.AsyncConnection`, or SQLAlchemy's `AsyncConnection` or
# `AsyncSession`. The proxy of a pool has its methods at run time only.
AsyncConnection: TypeAlias = "_AsyncConnection | PoolConnectionProxy"
Row = Sequence[Any]


class SyncDriver(Protocol):
    """What is done with a synchronous connection."""

    def fetch_row(self, connection: Any, statement: str, arguments: Sequence[str | None]) -> Row | None:
        """Run a statement with parameters `$1`, `$2` … and return its first row."""
        ...

    def transaction(self, connection: Any) -> AbstractContextManager[Any]:
        """Return a transaction that commits at its end, and rolls back after an error.

        Raises:
            RuntimeError: The connection commits each statement by itself, whatever it is told.
        """
        ...

    def is_in_transaction(self, connection: Any) -> bool:
        """Say whether a transaction is open already."""
        ...

    def will_be_in_transaction(self, connection: Any) -> bool:
        """Say whether what is run next is part of a transaction that stays open."""
        ...


class AsyncDriver(Protocol):
    """What is done with an asynchronous connection."""

    async def fetch_row(self, connection: Any, statement: str, arguments: Sequence[str | None]) -> Row | None:
        """Run a statement with parameters `$1`, `$2` … and return its first row."""
        ...

    def transaction(self, connection: Any) -> AbstractAsyncContextManager[Any]:
        """Return a transaction that commits at its end, and rolls back after an error.

        Raises:
            RuntimeError: The connection commits each statement by itself, whatever it is told.
        """
        ...

    def is_in_transaction(self, connection: Any) -> bool:
        """Say whether a transaction is open already."""
        ...

    async def will_be_in_transaction(self, connection: Any) -> bool:
        """Say whether what is run next is part of a transaction that stays open."""
        ...


class _Asyncpg:
    async def fetch_row(self, connection: Any, statement: str, arguments: Sequence[str | None]) -> Row | None:
        found = await connection.fetchrow(statement, *arguments)
        return None if found is None else tuple(found)

    def transaction(self, connection: Any) -> AbstractAsyncContextManager[Any]:
        transaction: AbstractAsyncContextManager[Any] = connection.transaction()
        return transaction

    def is_in_transaction(self, connection: Any) -> bool:
        return bool(connection.is_in_transaction())

    async def will_be_in_transaction(self, connection: Any) -> bool:
        return bool(connection.is_in_transaction())


class _Psycopg:
    def fetch_row(self, connection: Any, statement: str, arguments: Sequence[str | None]) -> Row | None:
        with _psycopg_cursor(connection) as cursor:
            cursor.execute(*_psycopg_query(statement, arguments))
            found: Row | None = cursor.fetchone()
        return found

    def transaction(self, connection: Any) -> AbstractContextManager[Any]:
        transaction: AbstractContextManager[Any] = connection.transaction()
        return transaction

    def is_in_transaction(self, connection: Any) -> bool:
        return _psycopg_is_in_transaction(connection)

    def will_be_in_transaction(self, connection: Any) -> bool:
        return not connection.autocommit or _psycopg_is_in_transaction(connection)


class _PsycopgAsync:
    async def fetch_row(self, connection: Any, statement: str, arguments: Sequence[str | None]) -> Row | None:
        async with _psycopg_cursor(connection) as cursor:
            await cursor.execute(*_psycopg_query(statement, arguments))
            found: Row | None = await cursor.fetchone()
        return found

    def transaction(self, connection: Any) -> AbstractAsyncContextManager[Any]:
        transaction: AbstractAsyncContextManager[Any] = connection.transaction()
        return transaction

    def is_in_transaction(self, connection: Any) -> bool:
        return _psycopg_is_in_transaction(connection)

    async def will_be_in_transaction(self, connection: Any) -> bool:
        return not connection.autocommit or _psycopg_is_in_transaction(connection)


class _SqlAlchemy:
    def fetch_row(self, connection: Any, statement: str, arguments: Sequence[str | None]) -> Row | None:
        found = connection.execute(*_sqlalchemy_query(statement, arguments)).first()
        return None if found is None else tuple(found)

    @contextmanager
    def transaction(self, connection: Any) -> Iterator[Any]:
        with connection.begin() as transaction:
            _refuse_autocommit(_sqlalchemy_commits_each_statement(connection))
            yield transaction

    def is_in_transaction(self, connection: Any) -> bool:
        return bool(connection.in_transaction())

    def will_be_in_transaction(self, connection: Any) -> bool:
        return not _sqlalchemy_commits_each_statement(connection)


class _SqlAlchemyAsync:
    async def fetch_row(self, connection: Any, statement: str, arguments: Sequence[str | None]) -> Row | None:
        found = (await connection.execute(*_sqlalchemy_query(statement, arguments))).first()
        return None if found is None else tuple(found)

    @asynccontextmanager
    async def transaction(self, connection: Any) -> AsyncIterator[Any]:
        async with connection.begin() as transaction:
            _refuse_autocommit(await connection.run_sync(_sqlalchemy_commits_each_statement))
            yield transaction

    def is_in_transaction(self, connection: Any) -> bool:
        return bool(connection.in_transaction())

    async def will_be_in_transaction(self, connection: Any) -> bool:
        return not await connection.run_sync(_sqlalchemy_commits_each_statement)


SYNC_DRIVERS: dict[tuple[str, str], SyncDriver] = {
    ("psycopg", "Connection"): _Psycopg(),
    ("sqlalchemy", "Connection"): _SqlAlchemy(),
    ("sqlalchemy", "Session"): _SqlAlchemy(),
}
ASYNC_DRIVERS: dict[tuple[str, str], AsyncDriver] = {
    ("asyncpg", "Connection"): _Asyncpg(),
    ("asyncpg", "PoolConnectionProxy"): _Asyncpg(),
    ("psycopg", "AsyncConnection"): _PsycopgAsync(),
    ("sqlalchemy", "AsyncConnection"): _SqlAlchemyAsync(),
    ("sqlalchemy", "AsyncSession"): _SqlAlchemyAsync(),
}


def sync_driver_of(connection: object) -> SyncDriver | None:
    """Return the driver of a synchronous connection; None if it is not one."""
    return next((SYNC_DRIVERS[name] for name in _names(connection) if name in SYNC_DRIVERS), None)


def async_driver_of(connection: object) -> AsyncDriver:
    """Return the driver of an asynchronous connection.

    Raises:
        TypeError: It is none that is known.
    """
    for name in _names(connection):
        if name in ASYNC_DRIVERS:
            return ASYNC_DRIVERS[name]
    kind = type(connection)
    raise TypeError(
        f"{kind.__module__}.{kind.__qualname__} is no connection that is known; give one of asyncpg, psycopg 3 or "
        "SQLAlchemy (Connection, Session, AsyncConnection, AsyncSession)."
    )


def _names(connection: object) -> list[tuple[str, str]]:
    return [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(connection).__mro__]


def _psycopg_cursor(connection: Any) -> Any:
    from psycopg.rows import tuple_row

    return connection.cursor(row_factory=tuple_row)


def _psycopg_query(statement: str, arguments: Sequence[str | None]) -> tuple[str, dict[str, str | None]]:
    return PARAMETER.sub(r"%(p\1)s", statement), _named(arguments)


def _psycopg_is_in_transaction(connection: Any) -> bool:
    from psycopg.pq import TransactionStatus

    return bool(connection.info.transaction_status != TransactionStatus.IDLE)


def _sqlalchemy_commits_each_statement(connection: Any) -> bool:
    """Say whether a connection or session is in AUTOCOMMIT, where `begin` begins nothing: only the driver's knows."""
    from sqlalchemy.orm import Session

    found: Any = connection.connection() if isinstance(connection, Session) else connection
    return bool(found.connection.dbapi_connection.autocommit)


def _refuse_autocommit(commits_each_statement: bool) -> None:
    if commits_each_statement:
        raise RuntimeError(
            "The connection is in AUTOCOMMIT, where each statement is a commit of its own: the work and its success "
            "have to be one. Use a connection without it."
        )


def _sqlalchemy_query(statement: str, arguments: Sequence[str | None]) -> tuple[Any, dict[str, str | None]]:
    from sqlalchemy import text

    return text(PARAMETER.sub(r":p\1", statement)), _named(arguments)


def _named(arguments: Sequence[str | None]) -> dict[str, str | None]:
    return {f"p{number}": argument for number, argument in enumerate(arguments, start=1)}
