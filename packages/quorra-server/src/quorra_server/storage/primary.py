"""The primary: which of several hosts takes writes, and whether it is still the one that did a moment ago.

A standby that is promoted begins a new timeline. A primary on an older timeline than the newest one seen is the one of
before: it may be alive, and would take writes that nobody will ever see again. No connection to it is used.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg
import structlog

from quorra_server.storage.statements import statement

log = structlog.get_logger(__name__)

IDENTIFY = statement("identify")

# A host that has not answered by then is asked together with all others.
HEAD_START_SECONDS = 0.3
# A host that was frozen or cut off does not answer at all, and must not hold up the one that was promoted.
LOOK_SECONDS = 1.0
# An address that a failover moves is only seen to have moved by a new connection.
LOOK_CONNECTION_SECONDS = 5.0
WRITABLE = ("read-write", "primary")
WAITS_FOR_STANDBY = "SyncRepWaitForLSN"

CONNECTION_ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class NotThePrimary(OSError):
    """No host is a primary that may be written to; the message says what each of them is."""


class Life(NamedTuple):
    """One primary's time as the primary: the cluster, and the timeline that its promotion began."""

    system_identifier: int
    timeline: int


class Connection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that knows where it leads.

    Attributes:
        is_doubtful: A commit was answered although no standby has it: somebody ended the wait for one.
    """

    life = Life(0, 0)
    host = ""
    is_taken = False
    is_doubtful = False

    def forget_doubt(self) -> None:
        """Begin anew: what was doubtful was somebody else's commit, who did not wait for the answer."""
        self.is_doubtful = False

    def _process_log_message(self, fields: dict[str, str], last_query: str) -> None:
        # PostgreSQL says so in a warning, in its own language; the name of its function is the same in all of them.
        if fields.get("R") == WAITS_FOR_STANDBY:
            self.is_doubtful = True
        super()._process_log_message(fields, last_query)


@dataclass(slots=True)
class _Look:
    """A connection that is kept to ask one host who it is."""

    connection: asyncpg.Connection
    opened_at: float = field(default_factory=time.monotonic)

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self.opened_at < LOOK_CONNECTION_SECONDS and not self.connection.is_closed()


class Primary:
    """Opens connections to the primary, and to nothing else.

    Attributes:
        life: The newest one seen; None before the first connection.
    """

    def __init__(self, dsn: str) -> None:
        """Take the address. It may name several hosts (`postgresql://a,b/db`), and say which of them will do
        (`target_session_attrs`); with several hosts only the primary will.
        """
        self._hosts, self._must_be_primary = _hosts(dsn)
        self._current = self._hosts[0]
        self._followers: list[Callable[[Life], None]] = []
        self._looks: dict[str, _Look] = {}
        self.life: Life | None = None

    def follow(self, follower: Callable[[Life], None]) -> None:
        """Call `follower` with each new life; its connections to earlier ones are of no use any more."""
        self._followers.append(follower)

    async def connect(self, _: str | None = None, **options: Any) -> Connection:
        """Open a connection to the primary.

        The host that was the primary last is asked first; if it does not answer at once, all others are asked too.

        Raises:
            NotThePrimary: None of the hosts that answer is one.
            OSError: None of the hosts answers; the driver's own errors, too.
        """
        others = [host for host in self._hosts if host != self._current]
        tries = [asyncio.create_task(self._open(self._current, options))]
        try:
            if others and (self.life is None or not await _succeeds(tries[0], HEAD_START_SECONDS)):
                tries += [asyncio.create_task(self._open(host, options)) for host in others]
            return await self._choose(tries)
        finally:
            for task in tries:
                _abandon(task)

    async def look(self) -> Life | None:
        """Ask every host who it is, and follow a promotion; returns the life of the primary, None if there is none.

        Takes a second at most.
        """
        found = await asyncio.gather(*(self._look_at(host) for host in self._hosts))
        lives = [
            (life, host)
            for life, host in zip(found, self._hosts, strict=True)
            if life is not None and not self._is_old(life)
        ]
        if not lives:
            return None
        life, host = max(lives, key=lambda each: each[0].timeline)
        self._move(life, host)
        return life

    async def close(self) -> None:
        """Close the connections that were kept for looking."""
        for look in self._looks.values():
            look.connection.terminate()
        self._looks.clear()

    async def _open(self, host: str, options: dict[str, Any]) -> Connection:
        connection: Connection = await asyncpg.connect(host, **{"connection_class": Connection, **options})
        try:
            connection.life, connection.host = await self._identify(connection, host), host
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _choose(self, tries: Sequence["asyncio.Task[Connection]"]) -> Connection:
        """Return the first connection to a primary; at the start, when no timeline is known, that of the newest one."""
        left: set[asyncio.Task[Connection]] = set(tries)
        good: list[asyncio.Task[Connection]] = []
        deadline: float | None = None
        while left and not (good and self.life is not None):
            done, left = await asyncio.wait(left, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
            good += [task for task in tries if task in done and task.exception() is None]
            if not done:
                break
            deadline = HEAD_START_SECONDS if good else None
        if not good:
            raise _telling([error for task in tries if (error := task.exception()) is not None])
        connection = max((task.result() for task in good), key=lambda each: each.life.timeline)
        self._refuse_old(connection.life, connection.host)
        self._move(connection.life, connection.host)
        connection.is_taken = True
        return connection

    async def _identify(self, connection: Connection, host: str) -> Life:
        """Say which life a connection leads to.

        Raises:
            NotThePrimary: One that must not be used.
        """
        is_standby, is_read_only, system_identifier, timeline = await connection.fetchrow(IDENTIFY)
        if is_standby or is_read_only:
            if self._must_be_primary:
                raise NotThePrimary(f"{_shown(host)} takes no writes.")
            # One host that nobody said must be a primary may still answer reads.
            return Life(system_identifier, self.life.timeline if self.life else 0)
        self._refuse_old(Life(system_identifier, timeline), host)
        return Life(system_identifier, timeline)

    def _refuse_old(self, life: Life, host: str) -> None:
        if self._is_old(life):
            raise NotThePrimary(f"{_shown(host)} was the primary before another one was promoted.")

    async def _look_at(self, host: str) -> Life | None:
        """Return the life of a host that is a primary and answers."""
        try:
            return await asyncio.wait_for(self._ask(host), LOOK_SECONDS)
        except CONNECTION_ERRORS:
            self._forget(host)
            return None

    async def _ask(self, host: str) -> Life | None:
        look = self._looks.get(host)
        if look is None or not look.is_fresh:
            self._forget(host)
            connection = await asyncpg.connect(host, timeout=LOOK_SECONDS, statement_cache_size=0)
            look = self._looks[host] = _Look(connection)
        is_standby, is_read_only, system_identifier, timeline = await look.connection.fetchrow(IDENTIFY)
        return None if is_standby or is_read_only else Life(system_identifier, timeline)

    def _forget(self, host: str) -> None:
        look = self._looks.pop(host, None)
        if look is not None:
            look.connection.terminate()

    def _is_old(self, life: Life) -> bool:
        """Say whether a newer life is known, or, with several hosts, that it is the life of another cluster."""
        if self.life is None:
            return False
        if life.system_identifier != self.life.system_identifier:
            return len(self._hosts) > 1
        return life.timeline < self.life.timeline

    def _move(self, life: Life, host: str) -> None:
        """Keep to a host from now on, and tell the followers if its life is a new one."""
        if host != self._current:
            log.info("primary_moved", host=_shown(host))
        self._current = host
        before, self.life = self.life, life
        if before is not None and before != life and before.timeline:
            log.warning("primary_changed", before=str(before.timeline), now=str(life.timeline), host=_shown(host))
            for follower in self._followers:
                follower(life)


async def _succeeds(task: "asyncio.Task[Connection]", seconds: float) -> bool:
    await asyncio.wait([task], timeout=seconds)
    return task.done() and task.exception() is None


def _abandon(task: "asyncio.Task[Connection]") -> None:
    """End a try whose connection nobody takes, now or when it comes."""

    def close(done: "asyncio.Task[Connection]") -> None:
        if not done.cancelled() and done.exception() is None and not getattr(done.result(), "is_taken", False):
            done.result().terminate()

    task.cancel()
    task.add_done_callback(close)


def _telling(errors: Iterable[BaseException]) -> BaseException:
    """Return the error that says most: a primary that refuses says more than a standby, and that more than silence."""
    ranks: tuple[type[BaseException], ...] = (asyncpg.PostgresError, NotThePrimary)
    return min(
        errors, key=lambda error: next((n for n, kind in enumerate(ranks) if isinstance(error, kind)), len(ranks))
    )


def _hosts(dsn: str) -> tuple[list[str], bool]:
    """Return one address for each host of an address, and whether only a primary will do."""
    parts = urlsplit(dsn)
    options = dict(parse_qsl(parts.query))
    wanted = options.pop("target_session_attrs", "any")
    user, at, places = parts.netloc.rpartition("@")
    if "host" in options:
        # Whatever this is, the driver knows; it asks one host after the other.
        return [dsn], wanted in WRITABLE
    hosts = [
        urlunsplit(parts._replace(netloc=f"{user}{at}{place}", query=urlencode(options)))
        for place in dict.fromkeys(places.split(","))
    ]
    return hosts, len(hosts) > 1 or wanted in WRITABLE


def _shown(host: str) -> str:
    """Return a host without its user and password."""
    return urlsplit(host).netloc.rpartition("@")[2]
