"""How processes are ended, paused and waited for."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time

from tests.faults.kinds.registry import WAIT_SECONDS_MAX
from tests.faults.stage import Slot, Stage

# The grace of servers and workers is 5 s; a statement whose connection is a black hole is given up after 30 s.
STOP_SECONDS_MAX = 40.0


async def end(stage: Stage, slot: Slot, number: int) -> int:
    """Send an ending signal and wait until the next process is there."""
    process = slot.process
    hits = int(slot.signal(number))
    await gone(stage, slot.name, process)
    await alive(slot)
    if slot in stage.servers:
        await stage.wait_until_ready()
    elif slot in stage.workers:
        await working(stage, slot)
    return hits


async def working(stage: Stage, worker: Slot) -> None:
    """Wait until a worker's process runs jobs."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while time.monotonic() < deadline:
        path = stage.folder / f"worker-{worker.pid}.jsonl"
        if path.exists() and '"started"' in path.read_text():
            return
        await asyncio.sleep(0.2)


async def gone(stage: Stage, name: str, process: "subprocess.Popen[bytes] | None") -> None:
    """Wait until a process has ended; one that does not is killed, as a service manager would, and reported."""
    deadline = time.monotonic() + STOP_SECONDS_MAX
    while process is not None and process.poll() is None:
        if time.monotonic() > deadline:
            stage.history.write("hung", what=name, seconds=STOP_SECONDS_MAX)
            process.kill()
            deadline += STOP_SECONDS_MAX
        await asyncio.sleep(0.05)


async def alive(slot: Slot) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not slot.pid and time.monotonic() < deadline:
        await asyncio.sleep(0.05)


async def pause(slot: Slot, seconds: float) -> int:
    pid = slot.pid
    if not pid:
        return 0
    kill_process(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        kill_process(pid, signal.SIGCONT)
    return 1


def kill_process(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
