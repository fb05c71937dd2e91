"""Handlers in processes of their own: for work that holds the interpreter, and with a real kill."""

import asyncio
import contextlib
import importlib
import multiprocessing
import pickle
import signal
import traceback
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any


class RemoteError(Exception):
    """An error of a handler in another process, with its traceback as text."""

    def __init__(self, kind: str, text: str) -> None:
        """Take the error's class and traceback."""
        super().__init__(text)
        self.kind = kind


class ProcessDied(Exception):
    """The handler's process ended without an answer."""


class _Member:
    """One process and our end of its pipe."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def call(self, module: str, name: str, payload: bytes) -> Any:
        try:
            self.pipe.send_bytes(pickle.dumps((module, name, payload)))
            return pickle.loads(self.pipe.recv_bytes())  # noqa: S301 - from our own child
        except (EOFError, OSError) as error:
            self.process.join(1)
            raise ProcessDied(f"the handler's process ended with exit code {self.process.exitcode}") from error

    def kill(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.process.kill()
            self.process.join(5)
        self.pipe.close()


class ProcessPool:
    """Runs handlers in up to `size` processes, which are started when they are needed and kept."""

    def __init__(self, size: int) -> None:
        """Start nothing yet."""
        self._idle: list[_Member] = []
        self._busy: set[_Member] = set()
        # One thread per process waits for its answer.
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="quorra-process")

    async def run(self, module: str, name: str, payload: bytes) -> Any:
        """Run the handler `module:name` on a payload and return its result; kills the process if cancelled.

        Raises:
            RemoteError: The handler raised.
            ProcessDied: Its process ended, for example because the system ran out of memory.
        """
        loop = asyncio.get_running_loop()
        member = self._idle.pop() if self._idle else await loop.run_in_executor(self._threads, _Member)
        self._busy.add(member)
        call = loop.run_in_executor(self._threads, member.call, module, name, payload)
        try:
            outcome, *details = await asyncio.shield(call)
        except BaseException:
            # Cancelled, timed out or dead: the process may be in the middle of anything, so it is not used again.
            self._busy.discard(member)
            member.kill()
            with contextlib.suppress(ProcessDied, asyncio.CancelledError):
                await call
            raise
        self._busy.discard(member)
        self._idle.append(member)
        if outcome == "raised":
            raise RemoteError(*details)
        if outcome == "outcome":
            raise details[0]
        return details[0]

    def close(self) -> None:
        """Kill all processes."""
        for member in (*self._idle, *self._busy):
            member.kill()
        self._threads.shutdown(wait=False)


def _serve(pipe: Connection) -> None:
    """Answer calls until the pipe closes; Ctrl-C is for the parent to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):
        while True:
            module, name, payload = pickle.loads(pipe.recv_bytes())  # noqa: S301 - from our own parent
            pipe.send_bytes(pickle.dumps(_call(module, name, payload)))


def _call(module: str, name: str, payload: bytes) -> tuple[Any, ...]:
    from quorra_worker_sdk.outcomes import Outcome

    try:
        handler = getattr(importlib.import_module(module), name).handler
        return "returned", handler.function(**handler.binding.arguments(payload))
    except Outcome as outcome:
        return "outcome", outcome
    except Exception as error:
        # Every error of a handler is an answer, with the traceback that the parent cannot see.
        kind = f"{type(error).__module__}.{type(error).__qualname__}"
        return "raised", kind, traceback.format_exc()
