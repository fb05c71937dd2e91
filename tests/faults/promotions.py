"""`hatch run promotions`: a standby is promoted again and again under load; nothing may be lost that is not reported.

hatch run promotions --count 30 --mode sync
hatch run promotions --count 30 --mode async

Each time the primary is killed, frozen, or left alive; the standby becomes the primary; the old one comes back and must
not be written to; then it is made a standby anew. In asynchronous mode the standby is cut off a moment before, so that
it is behind.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import asyncpg
import httpx
from quorra_server.storage.migrate import migrate
from rich.console import Console

from tests.faults.judging.promotions import PromotionsVerdict, judge
from tests.faults.plans import new_id
from tests.faults.stage import Stage
from tests.support.pair import Node, Pair
from tests.support.processes import BIN
from tests.support.services import free_port

WAYS = ("kill", "freeze", "alive")
CALM_SECONDS = (1.0, 2.5)
# How far the standby is behind in asynchronous mode.
BEHIND_SECONDS = (0.2, 1.0)
BEHIND_JOBS_MIN = 5
RECOVERY_SECONDS_MAX = 3.0
PROBE_SECONDS_MAX = 2.0
PROBE_PAUSE_SECONDS = 0.02
BACK_SECONDS_MAX = 30.0
# What a frozen primary had been sent is done when it is let go; from then on nothing may come.
THAW_SECONDS = 0.5
WATCH_OLD_SECONDS = 1.5
DRAIN_SECONDS = 3.0
LOAD_END_SECONDS_MAX = 20.0


class PairStage(Stage):
    """A primary with a standby, servers that know both, workers and clients."""

    pair: Pair

    async def open_pair(self, say: Callable[[str], None], *, is_synchronous: bool) -> None:
        """Start everything, and wait until it serves."""
        say("a primary and its standby")
        self.pair = Pair(self.folder, is_synchronous=is_synchronous)
        self._stack.callback(self.pair.close)
        await asyncio.to_thread(self.pair.start)
        await migrate(self.pair.url)
        say("servers, workers and clients")
        for number in range(self._server_count):
            await self._add_server(number)
        for server in self.servers:
            server.start()
        await self.wait_until_ready()
        await self._add_workers()
        await self._add_load()
        for slot in (*self.workers, self.load):
            assert slot is not None
            slot.start()
        self._guard = asyncio.create_task(self._keep_alive())

    async def _add_server(self, number: int) -> None:
        http, grpc = free_port(), free_port()
        self._http_ports.append(http)
        self._grpc_ports.append(grpc)
        await self._proxy(self.http_proxies, ("127.0.0.1", http))
        await self._proxy(self.plain_proxies, ("127.0.0.1", grpc))
        environment = {
            "QUORRA_ENV": "test",
            "QUORRA_API_KEY": self.key,
            "QUORRA_HTTP_ADDR": f"127.0.0.1:{http}",
            "QUORRA_GRPC_ADDR": f"127.0.0.1:{grpc}",
            "QUORRA_NODE_NAME": f"node-{number}",
            "DATABASE_URL": self.pair.url,
        }
        self.servers.append(self._slot(f"server-{number}", [str(BIN / "quorra-server")], environment))


async def run_promotions(stage: PairStage, *, count: int, mode: str, seed: int, console: Console) -> None:
    """Promote `count` times, and leave what clients were told and what is there in the folder."""
    dice = random.Random(seed)
    await stage.open_pair(lambda what: console.print(f"starting {what} ..."), is_synchronous=mode == "sync")
    ways = [WAYS[number % len(WAYS)] for number in range(count)]
    dice.shuffle(ways)
    for number, way in enumerate(ways, start=1):
        await asyncio.sleep(dice.uniform(*CALM_SECONDS))
        recovery_seconds, to_the_old = await _promote(stage, way, mode=mode, dice=dice)
        stage.history.write("promoted", way=way, recovery_seconds=recovery_seconds, to_the_old=to_the_old)
        console.print(f"{number}/{count} {way}: writes back after {max(recovery_seconds):.2f} s")
    await _end_load(stage)
    await _look(stage)


async def _end_load(stage: PairStage) -> None:
    """Let the clients come to an end: whatever they are told after the look is not in it."""
    assert stage.load is not None
    assert stage.load.process is not None
    stage.load.is_wanted = False
    stage.load.signal(signal.SIGTERM)
    await asyncio.sleep(DRAIN_SECONDS)
    stage.load.signal(signal.SIGTERM)
    await asyncio.to_thread(stage.load.process.wait, LOAD_END_SECONDS_MAX)


async def _promote(stage: PairStage, way: str, *, mode: str, dice: random.Random) -> tuple[list[float], int]:
    """Take the primary away, promote the standby, bring the old primary back, and make it a standby anew.

    Returns:
        Until each server took a submission on the new primary, and how many jobs came to the old one afterwards.
    """
    pair = stage.pair
    if mode == "async":
        await pair.cut_off()
        at_the_cut = await _count_jobs(pair.primary)
        await asyncio.sleep(dice.uniform(*BEHIND_SECONDS))
        while await _count_jobs(pair.primary) < at_the_cut + BEHIND_JOBS_MIN:
            await asyncio.sleep(PROBE_PAUSE_SECONDS)
    if way == "kill":
        await asyncio.to_thread(pair.primary.kill)
    elif way == "freeze":
        pair.primary.freeze()
    await pair.promote()
    promoted_at = time.monotonic()
    recovery_seconds = await asyncio.gather(*(_until_back(stage, url, promoted_at) for url in stage.http_urls))
    old = pair.standby
    if way == "kill":
        await asyncio.to_thread(old.start)
    elif way == "freeze":
        old.thaw()
        await asyncio.sleep(THAW_SECONDS)
    before = await _count_jobs(old)
    await asyncio.sleep(WATCH_OLD_SECONDS)
    to_the_old = await _count_jobs(old) - before
    await asyncio.to_thread(old.kill)
    await asyncio.to_thread(pair.rebuild)
    return list(recovery_seconds), to_the_old


async def _until_back(stage: PairStage, url: str, promoted_at: float) -> float:
    """Submit at one server until a job is on the new primary; returns how long that took."""
    primary = await asyncpg.connect(stage.pair.primary.dsn)
    try:
        async with httpx.AsyncClient(headers=dict(stage.headers), timeout=PROBE_SECONDS_MAX) as client:
            while time.monotonic() < promoted_at + BACK_SECONDS_MAX:
                job = new_id()
                with contextlib.suppress(httpx.HTTPError):
                    body = {"id": job, "type": "probe", "queue": "probes", "payload": {}}
                    response = await client.post(f"{url}/v1/jobs", json=body)
                    answered_at = time.monotonic()
                    if response.is_success:
                        stage.history.write("probed", job=job)
                        if await primary.fetchval("SELECT EXISTS (SELECT FROM quorra.jobs WHERE id = $1)", job):
                            return answered_at - promoted_at
                await asyncio.sleep(PROBE_PAUSE_SECONDS)
        raise TimeoutError(f"{url} takes no submission {BACK_SECONDS_MAX:g} s after a promotion; see {stage.folder}")
    finally:
        await primary.close()


async def _count_jobs(node: Node) -> int:
    connection = await asyncpg.connect(node.dsn)
    try:
        count: int = await connection.fetchval("SELECT count(*) FROM quorra.jobs")
        return count
    finally:
        await connection.close()


async def _look(stage: PairStage) -> None:
    """Write down what is there, and what the product says of failovers."""
    async with httpx.AsyncClient(headers=dict(stage.headers), timeout=20) as client:
        failovers = (await client.get(f"{stage.http_urls[0]}/v1/failovers")).json()["failovers"]
    connection = await asyncpg.connect(stage.pair.primary.dsn)
    try:
        jobs = [str(row["id"]) for row in await connection.fetch("SELECT id FROM quorra.jobs")]
        rows = await connection.fetch("SELECT job_id, batch FROM quorra.outcomes")
    finally:
        await connection.close()
    outcomes = [(str(row["job_id"]), str(row["batch"])) for row in rows]
    end = {"failovers": failovers, "jobs": jobs, "outcomes": outcomes}
    (stage.folder / "end.json").write_text(json.dumps(end))


def main(arguments: list[str] | None = None) -> int:
    """Run and judge; 0 is passed, 1 failed, 3 unknown."""
    parser = argparse.ArgumentParser(
        prog="promotions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=6, help="how many promotions (6)")
    parser.add_argument(
        "--mode", choices=("sync", "async"), default="sync", help="whether commits wait for the standby"
    )
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(2), "big"))
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--rate", type=float, default=200.0, help="jobs a second to submit (200)")
    parser.add_argument("--recovery-seconds-max", type=float, default=RECOVERY_SECONDS_MAX, help="at p99 (3)")
    parser.add_argument("--json", metavar="FILE", help="write the verdict here")
    parser.add_argument("--folder", metavar="DIR", help="keep the histories here instead of in a temporary folder")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    folder = Path(options.folder or tempfile.mkdtemp(prefix="quorra-promotions-"))
    folder.mkdir(parents=True, exist_ok=True)
    console.print(f"seed {options.seed}, histories in {folder}")
    asyncio.run(_run(options, folder, console))
    verdict = judge(folder, mode=options.mode, recovery_seconds_max=options.recovery_seconds_max)
    _show(verdict, console)
    if options.json:
        Path(options.json).write_text(json.dumps({"verdict": verdict.verdict, **asdict(verdict)}, indent=2) + "\n")
    return {"passed": 0, "failed": 1, "unknown": 3}[verdict.verdict]


async def _run(options: argparse.Namespace, folder: Path, console: Console) -> None:
    stage = PairStage(
        folder, servers=options.servers, workers=1, lease_seconds=3.0, seed=options.seed, rate=options.rate
    )
    try:
        await run_promotions(stage, count=options.count, mode=options.mode, seed=options.seed, console=console)
    finally:
        await stage.close()


def _show(verdict: PromotionsVerdict, console: Console) -> None:
    for name, value in asdict(verdict).items():
        if name not in ("why", "examples"):
            console.print(f"{name.replace('_', ' '):<18} {value}", highlight=False)
    for example in verdict.examples:
        console.print(f"  {example}", highlight=False)
    console.print(f"[bold]{verdict.verdict}[/]")
    for line in verdict.why:
        console.print(f"  {line}", highlight=False)


if __name__ == "__main__":
    raise SystemExit(main())
