"""One fault run: start, hurt, heal, come to rest, look at everything once more."""

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import httpx
from redis.exceptions import RedisError
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tests.faults.kinds import KINDS, Kind, unavailable
from tests.faults.leaks import logs_below, telltales
from tests.faults.outside import OutsideStage, foreign_kinds, key_from_environment, look_from_outside
from tests.faults.stage import Stage

WARM_UP_SECONDS = 5.0
# Of a pause between two faults of one lane; and how long it waits for its turn.
PAUSE_SPREAD = (1 / 3, 5 / 3)
TURN_SECONDS = 0.3
# A rolling restart on a machine that is busy with other things takes the longest.
FAULT_SECONDS_MAX = 150.0
# Four runs with the default back-off take 14 s, a few expiries in between some more; then nothing is left to happen.
STANDSTILL_SECONDS_MAX = 60.0
REST_SECONDS_MAX = 600.0
LOOK_AGAIN_TIMES = 5
LOOK_SECONDS = 1.0
# Where nobody watches a screen, such as in CI, a line says now and then how far the run is.
LINE_SECONDS = 60.0
PAGE_JOBS = 200
LISTED_STATES = ("dead", "cancelled")


@dataclass(frozen=True, slots=True)
class Options:
    """What to do.

    Attributes:
        count: End as soon as each kind had an effect so many times; None means when the time is over.
        pause_seconds: Between two faults of one lane, on average.
    """

    seconds: float
    seed: int
    kinds: list[str]
    servers: int
    workers: int
    rate: float
    lease_seconds: float
    lanes: int
    folder: Path
    against: str | None = None
    grpc: str = ""
    count: int | None = None
    pause_seconds: float = 0.9


async def run_faults(options: Options, console: Console) -> None:
    """Run, and leave the histories and the oracle's recording in the folder; SIGTERM ends everything first."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    if options.against is not None:
        await _run_outside(options, console)
        return
    stage = Stage(
        options.folder,
        servers=options.servers,
        workers=options.workers,
        lease_seconds=options.lease_seconds,
        seed=options.seed,
        rate=options.rate,
        seconds=options.seconds,
    )
    try:
        await stage.open(lambda what: console.print(f"starting {what} ..."))
        await stage.while_alive(Run(options, stage, console).run())
    finally:
        await stage.close()


async def _run_outside(options: Options, console: Console) -> None:
    stage = OutsideStage(options, key_from_environment())
    try:
        await stage.open_outside()
        await stage.while_alive(Run(options, stage, console).hurt_from_outside())
        await look_from_outside(stage, console)
    finally:
        await stage.close()


class Run:
    """Hurts a stage."""

    def __init__(self, options: Options, stage: Stage, console: Console) -> None:
        """Take what to hurt, and how."""
        self._options = options
        self._stage = stage
        self._console = console
        self._hits: Counter[str] = Counter()
        self._times: Counter[str] = Counter()
        self._effective: Counter[str] = Counter()
        self._recent: deque[str] = deque(maxlen=6)
        self._busy: set[str] = set()
        self._order: list[str] = []
        self._dice = random.Random(options.seed)
        self._phase = "warming up"
        self._began = time.monotonic()
        self._totals = {"created": 0, "succeeded": 0, "waiting": 0, "ended": 0}
        self._rate = 0.0
        self._line_is_due_at = 0.0

    async def run(self) -> None:
        """Hurt, heal, rest, look."""
        kinds = self._able(unavailable(self._stage))
        with Live(self._picture(), console=self._console, refresh_per_second=2) as live:
            watcher = asyncio.create_task(self._watch(live))
            try:
                await asyncio.sleep(WARM_UP_SECONDS)
                self._mark("hurt")
                await self._hurt(kinds)
                self._mark("heal")
                await self._heal()
                self._mark("rest")
                await self._rest()
            finally:
                watcher.cancel()
                await asyncio.gather(watcher, return_exceptions=True)
        self._mark("look")
        await self._look()

    def _able(self, left_out: dict[str, str]) -> list[Kind]:
        """Return the kinds that were asked for and can be done, and write down which those are not, and why."""
        asked = self._options.kinds
        left_out = {name: why for name, why in left_out.items() if name in asked}
        self._stage.history.write("kinds", asked=asked, left_out=left_out)
        for name, why in left_out.items():
            self._console.print(f"[yellow]{name} is left out: {why}[/]")
        return [KINDS[name] for name in asked if name not in left_out]

    async def hurt_from_outside(self) -> None:
        """Hurt only our own side of an installation, and heal."""
        kinds = self._able(foreign_kinds())
        with Live(self._picture(), console=self._console, refresh_per_second=2) as live:
            await asyncio.sleep(WARM_UP_SECONDS)
            self._mark("hurt")
            showing = asyncio.create_task(self._show(live))
            try:
                await self._hurt(kinds)
            finally:
                showing.cancel()
            self._mark("heal")
            await self._heal()

    async def _show(self, live: Live) -> None:
        while True:
            self._show_picture(live)
            await asyncio.sleep(LOOK_SECONDS)

    def _mark(self, phase: str) -> None:
        self._phase = phase
        self._stage.history.write("mark", name=phase)

    # Hurting.

    async def _hurt(self, kinds: list[Kind]) -> None:
        deadline = time.monotonic() + self._options.seconds
        if not kinds:
            await asyncio.sleep(self._options.seconds)
            return
        lanes = [asyncio.create_task(self._lane(number, kinds, deadline)) for number in range(self._options.lanes)]
        await asyncio.gather(*lanes)

    async def _lane(self, number: int, kinds: list[Kind], deadline: float) -> None:
        """Do one fault after the other; every kind has its turn before any has a second one."""
        dice = random.Random(f"{self._options.seed}-lane-{number}")
        while time.monotonic() < deadline and not self._is_enough(kinds):
            chosen = self._next_kind(kinds)
            if chosen is None:
                await asyncio.sleep(TURN_SECONDS)
                continue
            self._busy.add(chosen.group)
            try:
                await self._do(chosen, dice)
            finally:
                self._busy.discard(chosen.group)
            await asyncio.sleep(self._options.pause_seconds * dice.uniform(*PAUSE_SPREAD))

    def _is_enough(self, kinds: list[Kind]) -> bool:
        count = self._options.count
        return count is not None and all(self._effective[kind.name] >= count for kind in kinds)

    def _next_kind(self, kinds: list[Kind]) -> Kind | None:
        if not self._order:
            self._order = [kind.name for kind in kinds]
            self._dice.shuffle(self._order)
            # Those that had no effect yet come first.
            self._order.sort(key=lambda name: self._hits[name] > 0)
        for name in self._order:
            # When one kind is counted, the lanes share it: each hurts another process.
            if KINDS[name].group not in self._busy or (self._options.count is not None and len(kinds) == 1):
                self._order.remove(name)
                return KINDS[name]
        return None

    async def _do(self, kind: Kind, dice: random.Random) -> None:
        began, hits, problem = time.time(), 0, ""
        try:
            hits = await asyncio.wait_for(kind.fault(self._stage, dice), FAULT_SECONDS_MAX)
        except (OSError, TimeoutError, RuntimeError, ValueError, *DISTURBED) as error:
            # Another fault was in the way; this one has its turn again.
            problem = f"{type(error).__name__}: {error}"
        self._hits[kind.name] += hits
        self._times[kind.name] += 1
        self._effective[kind.name] += hits > 0
        self._recent.appendleft(f"{kind.name}: {hits} hits {problem[:60]}")
        self._stage.history.write(
            "fault", kind=kind.name, began=began, ended=time.time(), hits=hits, holds_up=kind.holds_up, problem=problem
        )

    # Healing.

    async def _heal(self) -> None:
        for proxy in self._stage.proxies:
            proxy.heal()
        for slot in self._stage.slots:
            slot.signal(signal.SIGCONT)
        await self._stage.wait_until_ready()
        assert self._stage.load is not None
        self._stage.load.signal(signal.SIGTERM)

    async def _rest(self) -> None:
        """Wait until every job has ended, or nothing ends any more; the judge says what has not."""
        deadline = time.monotonic() + REST_SECONDS_MAX
        quiet, ended, moved_at = 0, -1, time.monotonic()
        while time.monotonic() < min(deadline, moved_at + STANDSTILL_SECONDS_MAX) and quiet < 3:
            await asyncio.sleep(LOOK_SECONDS)
            quiet = quiet + 1 if self._totals["waiting"] == 0 else 0
            if self._totals["ended"] != ended:
                ended, moved_at = self._totals["ended"], time.monotonic()
        # Counts are folded once a second.
        await asyncio.sleep(2.5)

    async def _look(self) -> None:
        """Read what the product says of itself, finish the recording, and look for secrets in the logs."""
        stage = self._stage
        outputs: dict[str, str] = {}
        async with httpx.AsyncClient(headers=dict(stage.headers), timeout=20) as client:
            for url in stage.http_urls:
                outputs |= await _said(client, url)
                told = await _read(client, f"{url}/v1/queues")
                stage.history.write("queues_told", queues=told["queues"])
                for state in LISTED_STATES:
                    stage.history.write("listed", state=state, jobs=await _listed(client, url, state))
        assert stage.load is not None
        stage.load.is_wanted = False
        stage.load.signal(signal.SIGTERM)
        assert stage.recorder is not None
        await stage.recorder.finish()
        outputs |= await asyncio.to_thread(logs_below, stage.folder)
        found = telltales(outputs, [stage.key, stage.password])
        lines = sum(text.count("\n") + 1 for text in outputs.values())
        stage.history.write("secrets", lines=lines, found=found, outputs=sorted(outputs))

    # Showing.

    async def _watch(self, live: Live) -> None:
        """Show how far the run is, once a second, on one connection for as long as it lasts."""
        while True:
            try:
                await self._watch_once(live)
            except Exception as error:
                # Whatever happens to PostgreSQL, the run must see how far it is.
                self._recent.appendleft(f"not shown: {type(error).__name__}: {error}"[:80])
            await asyncio.sleep(LOOK_SECONDS)
            self._show_picture(live)

    async def _watch_once(self, live: Live) -> None:
        settings = {"application_name": "faults"}
        connection = await asyncpg.connect(self._stage.postgres.url, timeout=3, server_settings=settings)
        try:
            await self._watch_with(connection, live)
        finally:
            connection.terminate()

    async def _watch_with(self, connection: asyncpg.Connection, live: Live) -> None:
        before, at = self._totals["ended"], time.monotonic()
        while True:
            self._totals = dict(await connection.fetchrow(COUNTS, timeout=3))
            now, ended = time.monotonic(), self._totals["ended"]
            self._rate = (ended - before) / (now - at)
            before, at = ended, now
            self._show_picture(live)
            await asyncio.sleep(LOOK_SECONDS)

    def _show_picture(self, live: Live) -> None:
        live.update(self._picture())
        if not self._console.is_terminal and time.monotonic() >= self._line_is_due_at:
            self._line_is_due_at = time.monotonic() + LINE_SECONDS
            self._console.print(self._head(), soft_wrap=True)

    def _picture(self) -> Group:
        table = Table.grid()
        for line in self._recent:
            table.add_row(f"  {line}")
        return Group(self._head(), table)

    def _head(self) -> Text:
        totals = self._totals
        return Text(
            f"{self._phase:<10} {time.monotonic() - self._began:5.0f} s   jobs {totals['created']:>8,}   waiting "
            f"{totals['waiting']:>6,}   ended/s {self._rate:>6,.0f}   faults {sum(self._times.values())}   "
            f"kinds with an effect {sum(hits > 0 for hits in self._hits.values())} of {len(self._options.kinds)}"
        )


DISTURBED = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    httpx.HTTPError,
    grpc.aio.AioRpcError,
    RedisError,
)
# What the progress shows; the judge has its own source.
COUNTS = """
SELECT
    coalesce(sum(waiting + held + succeeded + dead + cancelled), 0)::bigint AS created,
    coalesce(sum(waiting + held), 0)::bigint AS waiting,
    coalesce(sum(succeeded + dead + cancelled), 0)::bigint AS ended,
    coalesce(sum(succeeded), 0)::bigint AS succeeded
FROM (
    SELECT waiting, held, succeeded, dead, cancelled FROM quorra.queue_counts
    UNION ALL
    SELECT waiting, held, succeeded, dead, cancelled FROM quorra.count_deltas
) AS counts
"""


async def _said(client: httpx.AsyncClient, url: str) -> dict[str, str]:
    """Return what a server tells, by its address: its metrics, and an error."""
    metrics = await _answered(client, f"{url}/metrics")
    error = await _answered(client, f"{url}/v1/jobs/no-such-id", is_error=True)
    return {f"{url}/metrics": metrics.text, f"{url}/v1/jobs/no-such-id": error.text}


async def _read(client: httpx.AsyncClient, url: str, query: dict[str, str] | None = None) -> dict[str, Any]:
    answer: dict[str, Any] = (await _answered(client, url, query)).json()
    return answer


async def _answered(
    client: httpx.AsyncClient, url: str, query: dict[str, str] | None = None, *, is_error: bool = False
) -> httpx.Response:
    """Ask after the run has come to rest; a machine that is very busy may need a few tries."""
    for _ in range(LOOK_AGAIN_TIMES):
        with contextlib.suppress(httpx.TransportError):
            response = await client.get(url, params=query)
            if response.is_error == is_error:
                return response
        await asyncio.sleep(LOOK_SECONDS)
    raise TimeoutError(f"{url} was not answered as it should be")


async def _listed(client: httpx.AsyncClient, url: str, state: str) -> list[str]:
    jobs: list[str] = []
    cursor = ""
    while True:
        query = {"status": state, "limit": str(PAGE_JOBS), **({"cursor": cursor} if cursor else {})}
        page = await _read(client, f"{url}/v1/jobs", query)
        jobs += [job["id"] for job in page["jobs"]]
        cursor = page.get("next_cursor") or ""
        if not cursor:
            return jobs
