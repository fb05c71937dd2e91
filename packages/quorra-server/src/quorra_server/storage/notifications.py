"""Wake-ups through PostgreSQL: LISTEN on one direct connection, NOTIFY outside every submitting transaction."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg

from quorra_server.storage.primary import Primary

CHANNEL = "quorra_wakeups"
# pg_notify refuses 8000 bytes and more.
MESSAGE_BYTES_MAX = 7_900
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 5.0


class PostgresPath:
    """One connection that listens and notifies."""

    name = "postgres"

    def __init__(self, primary: Primary) -> None:
        """Take what opens connections."""
        self._primary = primary
        self._connection: asyncpg.Connection | None = None
        primary.follow(lambda _: self._let_go())

    async def messages(self) -> AsyncIterator[str]:
        """Connect, and yield what other servers say until the connection breaks; now and then "" says that it stands.

        Raises:
            OSError: PostgreSQL cannot be reached, or the connection broke.
        """
        received: asyncio.Queue[str | None] = asyncio.Queue()
        try:
            connection = await self._primary.connect(timeout=CONNECT_SECONDS, command_timeout=CONNECT_SECONDS)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError) as error:
            raise OSError(str(error)) from error
        try:
            connection.add_termination_listener(lambda _: received.put_nowait(None))
            # A hint may be lost in a crash. Flushing each to disk would hold up the commits that must not be.
            await connection.execute("SET synchronous_commit = off")
            await connection.add_listener(CHANNEL, lambda *event: received.put_nowait(str(event[3])))
            self._connection = connection
            yield ""
            while (message := await _next(received)) is not None:
                yield message
            raise OSError("the listening connection was closed")
        except (asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
            raise OSError(str(error)) from error
        finally:
            self._connection = None
            with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.close(timeout=1)

    async def publish(self, message: str) -> None:
        """Tell the other servers.

        Raises:
            OSError: There is no connection now.
        """
        if self._connection is None or len(message.encode()) > MESSAGE_BYTES_MAX:
            raise OSError("not connected, or the message is too long for NOTIFY")
        try:
            await self._connection.execute("SELECT pg_notify($1, $2)", CHANNEL, message)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
            raise OSError(str(error)) from error

    def _let_go(self) -> None:
        """End a connection to an earlier primary: nobody says anything there any more."""
        if self._connection is not None:
            self._connection.terminate()


async def _next(received: asyncio.Queue[str | None]) -> str | None:
    try:
        return await asyncio.wait_for(received.get(), SILENCE_SECONDS)
    except TimeoutError:
        return ""
