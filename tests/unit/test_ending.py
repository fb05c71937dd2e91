"""Whatever runs until it is told to stop does stop."""

import asyncio

from quorra_server.services.ending import end_tasks
from quorra_server.services.loops.runner import Loop


async def test_a_loop_stops_although_a_round_swallows_its_cancellation() -> None:
    cancellations = 0
    in_round = asyncio.Event()

    async def swallow_once() -> bool:
        nonlocal cancellations
        in_round.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancellations += 1
            if cancellations > 1:
                raise
        return True

    loop = Loop("swallows", swallow_once, interval_seconds=0.0)
    loop.start()
    await in_round.wait()

    async with asyncio.timeout(5):
        await loop.stop()

    assert 2 == cancellations


async def test_ending_tasks_waits_for_what_they_still_do() -> None:
    done = []

    async def tidy_up() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            done.append("tidy")

    task = asyncio.create_task(tidy_up())
    await asyncio.sleep(0)

    await end_tasks([task])

    assert ["tidy"] == done
