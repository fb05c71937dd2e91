"""Connections to PostgreSQL, and the only place that knows the driver's errors."""

import asyncio
import contextlib
import random
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import asyncpg

from quorra_server.domain.errors import OutcomeUnknown, QuorraError, StorageUnavailable
from quorra_server.storage.breaker import Breaker
from quorra_server.storage.primary import Connection, Life, Primary
from quorra_server.storage.sqlstates import Meaning, meaning_of


class Row(Protocol):
    """One row of a result: by position, by name, or all of it."""

    def __getitem__(self, key: int | str | slice) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...
    def items(self) -> Iterable[tuple[str, Any]]:
        """Return names and values."""
        ...


# Plans are cached, and outlive the size that a table had when they were made: yesterday's empty partition is today's
# largest. So no plan may rest on a table being small: neither by scanning all of it, nor by sorting what an index has
# in order, nor by hashing or keeping all of it for a join: each join is a look-up. Where there is no other way
# PostgreSQL still scans and sorts. And since no plan depends on the parameters, each is made once: left to itself
# PostgreSQL plans every lease anew, which takes longer than a small lease.
SESSION = {
    "application_name": "quorra-server",
    "jit": "off",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_material": "off",
    "plan_cache_mode": "force_generic_plan",
}

# A new connection has no plans: a busy server would feel it every minute at the driver's 50,000.
QUERIES_PER_CONNECTION_MAX = 5_000_000
REPEATS_MAX = 5
REPEAT_PAUSE_SECONDS = (0.005, 0.2)
RETRY_AFTER_SECONDS = 1.0
# What the driver raises when it cannot connect; the last one says that no host is the primary.
CANNOT_CONNECT = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

Result = TypeVar("Result")


class KeyTaken(Exception):
    """Another transaction inserted the same key first; the statement did nothing. Uncaught, it is a bug."""


class Executor(Protocol):
    """Something that runs statements: a pool, where each is its own transaction, or an open transaction."""

    async def fetch(self, sql: str, *arguments: object, timeout: float | None = None) -> list[Row]:
        """Run a statement and return all of its rows; it may take `timeout` seconds (None: as long as any other)."""
        ...


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How to connect.

    Attributes:
        connections_max: Upper bound; connections are opened when they are needed.
        acquire_seconds: How long a caller waits for a free connection before it is told to come back.
        statement_seconds: How long a statement may take.
        prepared_statements: Off behind a pooler in transaction mode, which also refuses session settings.
    """

    dsn: str
    connections_max: int
    acquire_seconds: float
    statement_seconds: float
    prepared_statements: bool = True


def translate(error: BaseException, *, was_sent: bool = True) -> QuorraError | KeyTaken | None:
    """Return our error for one of the driver's, or None for a bug of ours.

    Args:
        was_sent: What would have made the change last had been sent when the error came.
    """
    meaning = meaning_of(error)
    if meaning is Meaning.BUG:
        return None
    if meaning is Meaning.TAKEN:
        return KeyTaken(str(error))
    if meaning is Meaning.CUT and was_sent:
        return OutcomeUnknown(
            "The connection to PostgreSQL broke before it answered. Repeat the request: with the same id or "
            "Idempotency-Key that is always safe.",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )
    return StorageUnavailable(
        f"PostgreSQL does not take the request now ({error}). Nothing was changed; try again shortly.",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


class NotReplicated(OSError):
    """A commit was answered before a standby had it, although one must: nobody knows whether it will last."""


class _Connection(Connection):
    """A connection that is given back as it is: nothing here changes a session, so nothing needs to be reset.

    The driver's reset is a round trip after each statement. An open transaction is rolled back all the same.
    """

    def get_reset_query(self) -> str:
        """Return no query."""
        return ""


class Pool:
    """A bounded pool of connections; every statement is its own transaction unless `transaction` says otherwise."""

    def __init__(self, settings: PoolSettings, door: Breaker | None = None, primary: Primary | None = None) -> None:
        """Remember how to connect; nothing is opened before it is needed.

        Args:
            settings: How to connect.
            door: What new connections pass; pools of one server share it, so that one of them tries for all.
            primary: Opens them; pools of one server share it, so that one of them notices a failover for all.
        """
        self._settings = settings
        self._primary = primary or Primary(settings.dsn)
        self._primary.follow(self._let_go)
        self._open: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._pool: asyncpg.Pool | None = None
        self._door = door or Breaker()
        # What statements pass: PostgreSQL can refuse them on connections that stand, as when its disk is full.
        self._breaker = Breaker()
        self.waiting = 0

    async def open(self) -> None:
        """Create the pool. PostgreSQL need not answer yet."""
        settings = self._settings
        session = SESSION if settings.prepared_statements else None
        self._pool = await asyncpg.create_pool(
            connect=self._connect,
            min_size=0,
            max_size=settings.connections_max,
            statement_cache_size=256 if settings.prepared_statements else 0,
            max_inactive_connection_lifetime=300,
            max_queries=QUERIES_PER_CONNECTION_MAX,
            connection_class=_Connection,
            command_timeout=settings.statement_seconds,
            timeout=settings.acquire_seconds,
            server_settings=session,
            reset=_keep_session,
        )

    async def _connect(self, *_: object, **options: Any) -> Connection:
        connection = await self._primary.connect(**options)
        self._open.add(connection)
        return connection

    def _let_go(self, life: Life) -> None:
        """End the connections to earlier lives: what they are asked now is for nobody, or never answered."""
        for connection in list(self._open):
            if connection.life != life:
                connection.terminate()
        self._door.close()
        self._breaker.close()

    async def close(self) -> None:
        """Close all connections; those in use are given two seconds to finish."""
        if self._pool is None:
            return
        try:
            await asyncio.wait_for(self._pool.close(), 2)
        except (TimeoutError, OSError, asyncpg.PostgresError):
            self._pool.terminate()

    @property
    def size(self) -> int:
        """Open connections."""
        return self._pool.get_size() if self._pool else 0

    @property
    def idle(self) -> int:
        """Open connections that nobody uses."""
        return self._pool.get_idle_size() if self._pool else 0

    async def fetch(self, sql: str, *arguments: object, timeout: float | None = None) -> list[Row]:
        """Run one statement as its own transaction and return its rows.

        A transaction that PostgreSQL rolled back by itself (deadlock, serialization) is repeated a few times.

        Raises:
            StorageUnavailable: Nothing was changed.
            OutcomeUnknown: The connection broke; the statement may have happened.
        """

        async def run() -> list[Row]:
            async with self._connection() as connection:
                rows: list[Row] = await connection.fetch(sql, *arguments, timeout=timeout)
                _see_that_it_lasts(connection)
                return rows

        return await self._repeating(run)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Executor]:
        """Run several statements as one transaction; any error rolls it back.

        Raises:
            StorageUnavailable: Nothing was changed.
            OutcomeUnknown: The connection broke; the transaction may have been committed.
        """
        is_committing = False
        async with self._connection() as connection:
            try:
                async with connection.transaction():
                    yield connection
                    is_committing = True
                _see_that_it_lasts(connection)
            except Exception as error:
                if _is_cancelled():
                    # Rolling back failed after a cancellation: what the caller must hear of is still the cancellation.
                    raise asyncio.CancelledError from error
                raise await self._translated(error, was_sent=is_committing) from error

    async def run_transaction(self, work: Callable[[Executor], Awaitable[Result]]) -> Result:
        """Run `work` as one transaction and return its result; again from the start if PostgreSQL rolled it back.

        Raises:
            StorageUnavailable: Nothing was changed.
            OutcomeUnknown: The connection broke; the transaction may have been committed.
        """
        for attempt in range(1, REPEATS_MAX + 1):
            try:
                async with self.transaction() as transaction:
                    return await work(transaction)
            except StorageUnavailable as error:
                if attempt == REPEATS_MAX or meaning_of(error.__cause__) is not Meaning.ROLLED_BACK:
                    raise
                await _pause_before_repeat()
        raise AssertionError("unreachable")

    async def _repeating(self, run: Callable[[], Awaitable[list[Row]]]) -> list[Row]:
        for attempt in range(1, REPEATS_MAX + 1):
            try:
                return await run()
            except Exception as error:
                if attempt == REPEATS_MAX or meaning_of(error) is not Meaning.ROLLED_BACK:
                    raise await self._translated(error) from error
                await _pause_before_repeat()
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        if self._pool is None:
            raise StorageUnavailable("The server is starting.", retry_after_seconds=RETRY_AFTER_SECONDS)
        connection = await self._acquire(self._pool)
        try:
            yield connection
        except asyncpg.InternalClientError:
            # The driver lost track of the conversation: whoever got this connection next would meet the same.
            connection.terminate()
            raise
        finally:
            await self._release(connection)
        if self._breaker.is_open:
            self._breaker.close()

    async def _acquire(self, pool: asyncpg.Pool) -> asyncpg.Connection:
        if self._breaker.is_open:
            self._breaker.admit()
        opens_door = self._door.is_open and not self.idle
        if opens_door:
            self._door.admit()
        self.waiting += 1
        try:
            connection = await pool.acquire(timeout=self._settings.acquire_seconds)
        except CANNOT_CONNECT as error:
            self._note_no_connection(pool, error)
            raise StorageUnavailable(
                f"No connection to PostgreSQL within {self._settings.acquire_seconds:g} s "
                f"({type(error).__name__}). Nothing was changed; try again shortly.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            ) from error
        finally:
            self.waiting -= 1
        if opens_door:
            self._door.close()
        if connection.is_doubtful:
            connection.forget_doubt()
        return connection

    def _note_no_connection(self, pool: asyncpg.Pool, error: Exception) -> None:
        if isinstance(error, TimeoutError) and pool.get_size() == self._settings.connections_max:
            self._door.say("pool_exhausted", error)
        else:
            self._door.trip(error)

    async def _release(self, connection: asyncpg.Connection) -> None:
        assert self._pool is not None
        try:
            await self._pool.release(connection)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            # The connection is broken; the pool opens another one for the next caller. It may have ended it itself.
            with contextlib.suppress(asyncpg.InterfaceError):
                connection.terminate()

    async def _translated(self, error: Exception, *, was_sent: bool = True) -> Exception:
        meaning = meaning_of(error)
        if meaning is Meaning.READ_ONLY and self._pool is not None:
            await self._pool.expire_connections()
        if meaning is Meaning.REFUSED:
            self._breaker.trip(error)
        elif meaning not in (Meaning.BUG, Meaning.TAKEN):
            self._breaker.say("database_error", error)
        return translate(error, was_sent=was_sent) or error


def _see_that_it_lasts(connection: Connection) -> None:
    """Raise if the commit that was just answered is on no standby, although PostgreSQL was told to wait for one.

    A timeout, or somebody's pg_cancel_backend, ends the wait with a warning, and the commit is answered as any other.
    """
    if connection.is_doubtful:
        # The pool's proxy of a connection takes no attributes: this one is not used again.
        connection.terminate()
        raise NotReplicated("The commit was not confirmed by a standby.")


async def _pause_before_repeat() -> None:
    await asyncio.sleep(random.uniform(*REPEAT_PAUSE_SECONDS))  # noqa: S311 - jitter, not a secret


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _keep_session(connection: asyncpg.Connection) -> None:
    """Leave a connection as it is for its next user.

    No statement of ours changes a session, and a transaction that was left open is rolled back all the same; the
    driver's own reset would be one more round trip after each statement.
    """


@dataclass(frozen=True, slots=True)
class Database:
    """The pools of a server.

    Attributes:
        main: Submissions, reads and operators' changes.
        leases: Leases, and what puts jobs back in line: how many of them wait is up to workers and queues.
        fast: Settles and heartbeats: their own pool, so that nothing else can starve them.
    """

    main: Pool
    leases: Pool
    fast: Pool

    @property
    def pools(self) -> dict[str, Pool]:
        """All of them, by name."""
        return {"main": self.main, "leases": self.leases, "fast": self.fast}

    async def open(self) -> None:
        """Create all pools."""
        for pool in self.pools.values():
            await pool.open()

    async def close(self) -> None:
        """Close all pools."""
        await asyncio.gather(*(pool.close() for pool in self.pools.values()))


def sparse(values: Sequence[Any]) -> Sequence[Any] | None:
    """Return an array parameter, or None in place of one that holds nothing: `unnest` fills it up with nulls.

    Most columns of most batches are empty, and the driver looks at every element of an array.
    """
    return None if values.count(None) == len(values) else values


def array_text(values: Iterable[int | str | None]) -> str:
    """Return an array parameter as PostgreSQL's text of an array, for a statement that casts it.

    Only for numbers and hexadecimal digits, which need no quotes. The driver looks at each element of an array several
    times; for thousands of small values that was most of the cost of a settle.
    """
    return f"{{{','.join(map(str, values)).replace('None', 'NULL')}}}"


def shared(values: Sequence[Any]) -> Sequence[Any]:
    """Return an array parameter, or its first element alone if all are equal: the statement fills it up.

    Most jobs of a batch are of one kind, and the driver and the database look at every element of an array.
    """
    return values[:1] if values.count(values[0]) == len(values) else values


def column(rows: Sequence[Row], name: str) -> list[Any]:
    """Return one column of a result."""
    return [row[name] for row in rows]
