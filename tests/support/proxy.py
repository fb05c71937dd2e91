"""A TCP proxy that can misbehave: delay, cut, reset, swallow, one way or both."""

import asyncio
import contextlib
import socket
import struct
from types import TracebackType

CHUNK_BYTES = 64 * 1024


class Proxy:
    """Listens on a port of its own and passes on to a target; its attributes change what it does at any time.

    Attributes:
        delay_seconds: Before each chunk is passed on.
        swallow_to_target: Drop what clients send.
        swallow_to_client: Drop what the target sends.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        """Take where to pass on to."""
        self._target = (target_host, target_port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.delay_seconds = 0.0
        self.swallow_to_target = False
        self.swallow_to_client = False
        self.refuses = False

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def address(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Reset all connections that are open now."""
        for writer in list(self._writers):
            raw = writer.get_extra_info("socket")
            if raw is not None:
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        try:
            target_reader, target_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, target_writer}
        for source, sink, to_target in ((reader, target_writer, True), (target_reader, writer, False)):
            task = asyncio.create_task(self._pass_on(source, sink, to_target=to_target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, to_target: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := await source.read(CHUNK_BYTES):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                if not (self.swallow_to_target if to_target else self.swallow_to_client):
                    sink.write(chunk)
                    await sink.drain()
        self._writers.discard(sink)
        sink.close()
