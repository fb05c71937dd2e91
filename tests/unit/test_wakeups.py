"""Wake-ups: a path that breaks, in whatever way, is tried again, and the others go on."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from quorra_server.observability.metrics import Metrics
from quorra_server.services.wakeups import Hint, Wakeups

FROM_ANOTHER_SERVER = '{"from": "b", "queues": ["mail"]}'
SECONDS_MAX = 10


class BreakingPath:
    """A path whose next use fails when it is told so; each of its connections delivers one message."""

    def __init__(self, name: str, fails_with: Exception | None = None) -> None:
        self.name = name
        self.fails_with = fails_with
        self.sent: asyncio.Queue[str] = asyncio.Queue()

    async def messages(self) -> AsyncIterator[str]:
        yield ""
        self._fail()
        yield FROM_ANOTHER_SERVER
        await asyncio.Event().wait()

    async def publish(self, message: str) -> None:
        self._fail()
        self.sent.put_nowait(message)

    def _fail(self) -> None:
        error, self.fails_with = self.fails_with, None
        if error is not None:
            raise error


# uvloop raises the second where asyncio raises the first.
@pytest.mark.parametrize("error", [ConnectionResetError("reset by peer"), RuntimeError("the handler is closed")])
async def test_a_path_that_broke_is_opened_again(error: Exception) -> None:
    heard: asyncio.Queue[Hint] = asyncio.Queue()
    wakeups = Wakeups("a", [BreakingPath("redis", error)], Metrics("test", "a"))
    wakeups.listen(heard.put_nowait)

    wakeups.start()
    try:
        hint = await asyncio.wait_for(heard.get(), SECONDS_MAX)
    finally:
        await wakeups.stop()

    assert ["mail"] == hint.queues


async def test_a_path_that_cannot_send_does_not_silence_the_others() -> None:
    broken, whole = BreakingPath("redis"), BreakingPath("postgres")
    heard: asyncio.Queue[Hint] = asyncio.Queue()
    wakeups = Wakeups("a", [broken, whole], Metrics("test", "a"))
    wakeups.listen(heard.put_nowait)
    sent = []

    wakeups.start()
    try:
        for _ in (broken, whole):
            await asyncio.wait_for(heard.get(), SECONDS_MAX)
        broken.fails_with = RuntimeError("the handler is closed")
        for queue in ("first", "second"):
            wakeups.work_ready([queue])
            sent.append(await asyncio.wait_for(whole.sent.get(), SECONDS_MAX))
    finally:
        await wakeups.stop()

    assert ['{"from": "a", "queues": ["first"]}', '{"from": "a", "queues": ["second"]}'] == sent
