"""Faults of workers, and jobs that are faults of workers."""

import asyncio
import contextlib
import random
import re
import signal
import time

import httpx

from tests.faults.kinds.processes import alive, end, gone, pause, working
from tests.faults.kinds.registry import WAIT_SECONDS_MAX, kind
from tests.faults.plans import new_id, new_job
from tests.faults.stage import Stage
from tests.support.waiting import written


@kind("worker.kill")
async def kill_worker(stage: Stage, dice: random.Random) -> int:
    """SIGKILL."""
    with stage.one_of(stage.workers, dice) as worker:
        return await end(stage, worker, signal.SIGKILL)


@kind("worker.term")
async def stop_worker_politely(stage: Stage, dice: random.Random) -> int:
    """SIGTERM: it drains."""
    with stage.one_of(stage.workers, dice) as worker:
        return await end(stage, worker, signal.SIGTERM)


@kind("worker.term_twice")
async def hurry_worker(stage: Stage, dice: random.Random) -> int:
    """SIGTERM, and again: it hurries."""
    worker = dice.choice(stage.workers)
    process = worker.process
    hits = int(worker.signal(signal.SIGTERM))
    # Later than a copy of the first one, which a service manager sends to each process of a group.
    await asyncio.sleep(1.2)
    worker.signal(signal.SIGTERM)
    await gone(stage, worker.name, process)
    await alive(worker)
    return hits


@kind("worker.stop")
async def stop_worker_past_its_leases(stage: Stage, dice: random.Random) -> int:
    """SIGSTOP past the lease, then SIGCONT: it reports what is no longer its own."""
    return await pause(dice.choice(stage.workers), stage.lease_seconds * dice.uniform(1.3, 1.8))


@kind("worker.pause")
async def pause_worker(stage: Stage, dice: random.Random) -> int:
    """SIGSTOP for less than a lease."""
    return await pause(dice.choice(stage.workers), stage.lease_seconds * dice.uniform(0.2, 0.6))


@kind("worker.freeze")
async def freeze_event_loop(stage: Stage, dice: random.Random) -> int:
    """A handler holds the event loop for longer than a lease; the heartbeat's thread goes on."""
    worker = dice.choice(stage.workers)
    if not worker.signal(signal.SIGUSR1):
        return 0
    pid, before = worker.pid, time.time()
    await asyncio.sleep(stage.lease_seconds * 1.5 + 0.5)
    path = stage.folder / f"worker-{pid}.jsonl"
    return sum(float(moment) > before for moment in re.findall(r'"event":"froze","at":([\d.]+)', written(path)))


@kind("worker.herd")
async def kill_all_workers(stage: Stage, _: random.Random) -> int:
    """SIGKILL all of them at once: all come back at once."""
    killed = [(worker.name, worker.process) for worker in stage.workers]
    hits = sum(worker.signal(signal.SIGKILL) for worker in stage.workers)
    for name, process in killed:
        await gone(stage, name, process)
    for worker in stage.workers:
        await alive(worker)
        await working(stage, worker)
    return hits


@kind("job.poison")
async def submit_poison(stage: Stage, dice: random.Random) -> int:
    """A job that kills each worker that starts it, until it is dead."""
    job = new_job(dice)
    job |= {
        "id": new_id(),
        "type": "work",
        "priority": 100,
        "max_retries": 1,
        "backoff": {"kind": "fixed", "base_seconds": 0.1},
    }
    job["payload"]["plan"] = "kk"
    job.pop("delay_seconds", None)
    job["payload"].pop("delay", None)
    await _submit(stage, job)
    return int(await _has_state(stage, job["id"], "dead", stage.lease_seconds * 4 + WAIT_SECONDS_MAX))


async def _submit(stage: Stage, job: dict[str, object]) -> None:
    payload = job["payload"]
    assert isinstance(payload, dict)
    call = new_id()
    stage.history.write("invoke", call=call, what="submit", jobs=[[job["id"], payload["token"]]])
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    async with httpx.AsyncClient(headers=dict(stage.headers), timeout=3) as client:
        while time.monotonic() < deadline:
            for url in stage.http_urls:
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.post(f"{url}/v1/jobs", json=job)).is_success:
                        return
            await asyncio.sleep(0.2)


async def _has_state(stage: Stage, job: object, state: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    async with httpx.AsyncClient(headers=dict(stage.headers), timeout=3) as client:
        while time.monotonic() < deadline:
            for url in stage.http_urls:
                with contextlib.suppress(httpx.HTTPError):
                    response = await client.get(f"{url}/v1/jobs/{job}")
                    if response.is_success and response.json()["status"] == state:
                        return True
            await asyncio.sleep(0.3)
    return False
