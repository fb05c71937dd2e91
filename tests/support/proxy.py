"""A TCP proxy that can misbehave: delay, throttle, cut, reset, half-close, swallow, one way or both."""

import asyncio
import contextlib
import socket
import ssl
import struct
from types import TracebackType

CHUNK_BYTES = 64 * 1024
CONNECT_SECONDS_MAX = 5.0


class Proxy:
    """Listens on a port of its own and passes on to a target; its attributes change what it does at any time.

    Attributes:
        delay_seconds: Before each chunk is passed on.
        bytes_per_second: Pass on no faster, each way of each connection; 0 means no limit.
        cut_after_bytes: Reset a connection once it has passed on so many bytes from now on; 0 means never.
        swallow_to_target: Drop what clients send.
        swallow_to_client: Drop what the target sends.
        refuses: Reset new connections.
        disturbed: Connections and chunks that one of these has met so far.
    """

    def __init__(
        self,
        target_host: str,
        target_port: int,
        *more_targets: tuple[str, int],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Take where to pass on to; with several targets each new connection goes to the next one that answers.

        With `tls` clients speak TLS, which ends here.
        """
        self._tls = tls
        self._targets = [(target_host, target_port), *more_targets]
        self._turn = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._left: dict[asyncio.StreamWriter, int] = {}
        self._spoiled: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.delay_seconds = 0.0
        self.bytes_per_second = 0
        self.cut_after_bytes = 0
        self.swallow_to_target = False
        self.swallow_to_client = False
        self.refuses = False
        self.disturbed = 0

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
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

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._writers) // 2

    def heal(self) -> None:
        """Behave from now on; connections that lost bytes are reset, since their ends can never agree again."""
        for writer in list(self._spoiled):
            _reset(writer)
        self._spoiled.clear()
        self.delay_seconds = 0.0
        self.bytes_per_second = self.cut_after_bytes = 0
        self.swallow_to_target = self.swallow_to_client = self.refuses = False

    def cut(self) -> None:
        """Reset all connections that are open now."""
        for writer in list(self._writers):
            _reset(writer)
            self.disturbed += 1

    def half_close(self) -> None:
        """Say the end of what is sent to each side, while the other way stays open."""
        for writer in list(self._writers):
            with contextlib.suppress(OSError, RuntimeError):
                writer.write_eof()
                self.disturbed += 1

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            self.disturbed += 1
            _reset(writer)
            return
        try:
            target_reader, target_writer = await self._connect()
        except (OSError, TimeoutError):
            _reset(writer)
            return
        except asyncio.CancelledError:
            _reset(writer)  # nobody else knows it yet
            raise
        self._writers |= {writer, target_writer}
        for source, sink, other, to_target in (
            (reader, target_writer, writer, True),
            (target_reader, writer, target_writer, False),
        ):
            task = asyncio.create_task(self._pass_on(source, sink, other, to_target=to_target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for _ in self._targets:
            host, port = self._targets[self._turn % len(self._targets)]
            self._turn += 1
            with contextlib.suppress(OSError, TimeoutError):
                return await asyncio.wait_for(asyncio.open_connection(host, port), CONNECT_SECONDS_MAX)
        raise OSError("no target answers")

    async def _pass_on(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        other: asyncio.StreamWriter,
        *,
        to_target: bool,
    ) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            while chunk := await source.read(CHUNK_BYTES):
                if self.delay_seconds:
                    self.disturbed += 1
                    await asyncio.sleep(self.delay_seconds)
                if self.swallow_to_target if to_target else self.swallow_to_client:
                    self.disturbed += 1
                    self._spoiled |= {sink, other}
                elif sink in self._spoiled or self._is_spent(sink, len(chunk)):
                    _reset(sink)
                    _reset(other)
                elif self.bytes_per_second:
                    await self._trickle(sink, chunk)
                else:
                    sink.write(chunk)
                    await sink.drain()
        self._writers.discard(sink)
        self._spoiled.discard(sink)
        self._left.pop(sink, None)
        sink.close()

    async def _trickle(self, sink: asyncio.StreamWriter, chunk: bytes) -> None:
        """Pass a chunk on in tenths of a second, until the throttle is taken away."""
        self.disturbed += 1
        while chunk:
            step = max(1, self.bytes_per_second // 10) if self.bytes_per_second else len(chunk)
            sink.write(chunk[:step])
            await sink.drain()
            chunk = chunk[step:]
            if chunk and self.bytes_per_second:
                await asyncio.sleep(0.1)

    def _is_spent(self, sink: asyncio.StreamWriter, size: int) -> bool:
        if not self.cut_after_bytes:
            self._left.pop(sink, None)
            return False
        left = self._left.get(sink, self.cut_after_bytes) - size
        self._left[sink] = left
        self.disturbed += left <= 0
        return left <= 0


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
