"""Faults of clocks: a process that believes in another time."""

import asyncio
import random
import re
import signal
import time

from tests.faults.kinds.processes import end
from tests.faults.kinds.registry import kind
from tests.faults.stage import Slot, Stage
from tests.support.faketime import faketime, under_faketime


@kind("server.clock", holds_up=True)
async def move_clock_of_server(stage: Stage, dice: random.Random) -> int:
    """A server whose clock is hours wrong."""
    return await _with_wrong_clock(stage, dice.choice(stage.servers), dice)


@kind("worker.clock")
async def move_clock_of_worker(stage: Stage, dice: random.Random) -> int:
    """A worker whose clock is hours wrong."""
    return await _with_wrong_clock(stage, dice.choice(stage.workers), dice)


async def _with_wrong_clock(stage: Stage, slot: Slot, dice: random.Random) -> int:
    """Start a process again under another clock, let it work, and end it."""
    library = faketime()
    assert library is not None
    slot.extra = under_faketime(library, FAKETIME=dice.choice(("-3h", "+3h", "-2d")))
    before = slot.log_path.stat().st_size if slot.log_path.exists() else 0
    try:
        await end(stage, slot, signal.SIGKILL)
    finally:
        slot.extra = {}
    await asyncio.sleep(dice.uniform(4.0, 6.0))
    said = slot.log_path.read_bytes()[before:].decode(errors="replace")
    hits = int(bool(slot.pid) and _tells_another_time(said)) if slot in stage.servers else int(bool(slot.pid))
    await end(stage, slot, signal.SIGTERM)
    return hits


def _tells_another_time(log: str) -> bool:
    hours = {time.strftime("%Y-%m-%dT%H", time.gmtime(time.time() + shift)) for shift in (-3600, 0, 3600)}
    told = re.findall(r"\d{4}-\d\d-\d\dT\d\d", log)
    return any(hour not in hours for hour in told)
