"""Runners of a group commit: nobody who joins the line is left behind."""

import asyncio

from quorra_server.services.runners import Runners

RUNNERS_MAX = 2


class Line:
    """Callers who wait, worked off in groups of what waits; a round takes until `flush` is set."""

    def __init__(self) -> None:
        self.runners = Runners()
        self.flush = asyncio.Event()
        self.waiting: list[asyncio.Future[None]] = []

    def join(self) -> "asyncio.Future[None]":
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(answer)
        if len(self.runners) < RUNNERS_MAX:
            self.runners.start(self._work_off)
        return answer

    async def _work_off(self) -> None:
        while self.waiting:
            group, self.waiting = self.waiting, []
            await self.flush.wait()
            for answer in group:
                answer.set_result(None)


async def test_who_joins_in_the_turn_in_which_all_runners_end_is_answered() -> None:
    line = Line()
    first = line.join()
    await asyncio.sleep(0)
    second = line.join()
    await asyncio.sleep(0)
    joined: list[asyncio.Future[None]] = []
    late = asyncio.create_task(_wait_and_join(line, joined))
    await asyncio.sleep(0)

    # Both runners and the late one wait for the same moment, and go on in one turn, in this order.
    line.flush.set()
    await late
    async with asyncio.timeout(5):
        await asyncio.gather(first, second, *joined)

    assert 1 == len(joined)


async def test_waiting_for_the_end_waits_for_every_runner() -> None:
    line = Line()
    answer = line.join()
    await asyncio.sleep(0)
    ended = asyncio.create_task(line.runners.all_ended())
    await asyncio.sleep(0)
    before = ended.done()

    line.flush.set()
    await ended

    assert (False, True, 0) == (before, answer.done(), len(line.runners))


async def _wait_and_join(line: Line, joined: "list[asyncio.Future[None]]") -> None:
    await line.flush.wait()
    joined.append(line.join())
