"""One run of the ledger: a server, workers, jobs and faults; then quiet, and the count."""

import asyncio
import random
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from quorra_worker_sdk import inbox

from tests.ledger import workers
from tests.ledger.judge import CREATE_LEDGER, Count, Guard, count
from tests.support.processes import Running, RunningServer, start_server, start_worker
from tests.support.proxy import Proxy

WORKERS = 3
JOBS_AT_ONCE = 40
HOPELESS_SHARE = 0.1
# Longer than the lease of two seconds, so that a stopped worker loses what it holds.
STOP_SECONDS = (2.5, 3.5)
FAULT_SECONDS = (0.2, 0.8)
QUIET_SECONDS_MAX = 90.0
ENQUEUE = """
SELECT quorra.enqueue(
    'move', json_build_object('is_hopeless', hopeless), max_retries => 1000,
    backoff => '{"kind": "fixed", "base_seconds": 0.05}'
)
FROM unnest($1::boolean[]) AS hopeless
"""


@dataclass(slots=True)
class LedgerRun:
    """The parts of a run, and the faults that were done to them."""

    database_url: str
    guard: Guard
    seed: int
    say: Callable[[str], None]
    faults: dict[str, int] = field(default_factory=dict)

    async def run(self, seconds_max: float, *, until: Callable[[Count], bool] = lambda _: False) -> Count:
        """Work under faults for so long, or until `until` finds what it looks for; then let all jobs end, and count."""
        connection = await asyncpg.connect(self.database_url)
        await connection.execute(CREATE_LEDGER)
        await connection.execute(inbox.CREATE_TABLE)
        parts = urlsplit(self.database_url)
        with ExitStack() as stack:
            server = stack.enter_context(start_server(self.database_url))
            host, _, port = server.grpc_address.partition(":")
            async with (
                Proxy(host, int(port)) as to_server,
                Proxy(parts.hostname or "", parts.port or 5432) as to_database,
            ):
                crew = _Crew(stack, server, self, to_server, to_database)
                found = await self._work(connection, crew, seconds_max, until)
                crew.heal()
                found = await self._quiet(connection)
        await connection.close()
        return found

    async def _work(
        self, connection: asyncpg.Connection, crew: "_Crew", seconds_max: float, until: Callable[[Count], bool]
    ) -> Count:
        chance = random.Random(self.seed)
        ends_at = time.monotonic() + seconds_max
        while True:
            found = await count(connection)
            if time.monotonic() > ends_at or until(found):
                return found
            wanted = max(0, JOBS_AT_ONCE - found.unfinished)
            await connection.execute(ENQUEUE, [chance.random() < HOPELESS_SHARE for _ in range(wanted)])
            kind = crew.one_fault(chance)
            if kind is not None:
                self.faults[kind] = self.faults.get(kind, 0) + 1
            self.say(f"{ends_at - time.monotonic():5.0f} s left, {kind or 'no fault'}: {found}")
            await asyncio.sleep(chance.uniform(*FAULT_SECONDS))

    async def _quiet(self, connection: asyncpg.Connection) -> Count:
        deadline = time.monotonic() + QUIET_SECONDS_MAX
        while (found := await count(connection)).unfinished and time.monotonic() < deadline:
            self.say(f"healed, {found}")
            await asyncio.sleep(0.5)
        return found


class _Crew:
    """The worker processes, and what can be done to them."""

    def __init__(
        self, stack: ExitStack, server: RunningServer, run: LedgerRun, to_server: Proxy, to_database: Proxy
    ) -> None:
        self._stack = stack
        self._server = server
        self._to_server = to_server
        self._to_database = to_database
        address = urlsplit(run.database_url)
        user = address.netloc.rpartition("@")[0]
        database_url = urlunsplit(address._replace(netloc=f"{user}@{to_database.address}"))
        self._environment = workers.environment(run.guard, database_url, to_server.address)
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quorra-ledger-")))
        self._workers = [self._start() for _ in range(WORKERS)]
        self._stopped: dict[int, float] = {}

    def one_fault(self, chance: random.Random) -> str | None:
        """Do one thing to the workers and say what; None if the chosen one is not at work."""
        self._continue(time.monotonic())
        kind = chance.choice(["kill", "kill", "stop", "cut_server", "cut_database", "cut_database"])
        place = chance.randrange(WORKERS)
        if place in self._stopped or "connected to" not in self._workers[place].log:
            return None
        if kind == "kill":
            self._workers[place].kill()
            self._workers[place] = self._start()
        elif kind == "stop":
            self._workers[place].signal(signal.SIGSTOP)
            self._stopped[place] = time.monotonic() + chance.uniform(*STOP_SECONDS)
        elif kind == "cut_server":
            self._to_server.cut()
        else:
            self._to_database.cut()
        return kind

    def heal(self) -> None:
        """Wake up everybody; no more faults."""
        self._continue(float("inf"))

    def _continue(self, now: float) -> None:
        for place in [place for place, until in self._stopped.items() if until <= now]:
            self._workers[place].signal(signal.SIGCONT)
            del self._stopped[place]

    def _start(self) -> Running:
        worker = start_worker(self._server, workers.MODULE, self._folder, environment=self._environment)
        return self._stack.enter_context(worker)
