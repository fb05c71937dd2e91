"""Handlers in processes of their own: for work that holds the interpreter, and with a real kill."""

import asyncio
import atexit
import contextlib
import functools
import importlib
import multiprocessing
import pickle
import signal
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import msgspec

from quorra_worker_sdk import codec
from quorra_worker_sdk.handlers import Binding
from quorra_worker_sdk.outcomes import chosen

_Errors = tuple[type[BaseException], ...]


class RemoteError(Exception):
    """An error of a handler in another process, with its traceback as text."""

    def __init__(self, kind: str, text: str, is_given_up_on: bool) -> None:
        """Take the error's class, its traceback, and whether the handler gives up on it."""
        super().__init__(text)
        self.kind = kind
        self.is_given_up_on = is_given_up_on


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
        # Python ends with SIGTERM what is left when it ends itself, and waits: for ever, because it is not heeded.
        atexit.register(self.kill)

    def call(self, order: tuple[str, str, bytes, _Errors]) -> Any:
        try:
            self.pipe.send_bytes(pickle.dumps(order))
            return pickle.loads(self.pipe.recv_bytes())  # noqa: S301 - from our own child
        except (EOFError, OSError) as error:
            self.process.join(1)
            raise ProcessDied(f"the handler's process ended with exit code {self.process.exitcode}") from error

    def kill(self) -> None:
        atexit.unregister(self.kill)
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

    async def run(self, function: Callable[..., Any], payload: bytes, give_up_on: _Errors) -> msgspec.Raw | None:
        """Run a function of a module on a payload and return its result as JSON; kills the process if cancelled.

        Raises:
            RemoteError: The handler raised.
            ProcessDied: Its process ended, for example because the system ran out of memory.
        """
        loop = asyncio.get_running_loop()
        member = self._take_idle() or await self._start()
        self._busy.add(member)
        order = (function.__module__, function.__name__, payload, give_up_on)
        call = loop.run_in_executor(self._threads, member.call, order)
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
        return None if details[0] is None else msgspec.Raw(details[0])

    def _take_idle(self) -> _Member | None:
        """Take a process that waits for a call; one that died while it waited is cleared away."""
        while self._idle:
            member = self._idle.pop()
            if member.process.is_alive():
                return member
            member.kill()
        return None

    async def _start(self) -> _Member:
        """Start a process; if nobody wants it any more when it is there, it is killed."""
        starting = self._threads.submit(_Member)
        try:
            return await asyncio.wrap_future(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(_kill_unwanted)
            raise

    def close(self) -> None:
        """Kill all processes."""
        for member in (*self._idle, *self._busy):
            member.kill()
        self._threads.shutdown(wait=False)


def _kill_unwanted(started: "Future[_Member]") -> None:
    if not started.cancelled() and started.exception() is None:
        started.result().kill()


def _serve(pipe: Connection) -> None:
    """Answer calls until the pipe closes; signals to the whole group are for the parent to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not SIG_IGN: programs that a handler starts would inherit it, and could not be ended politely.
    signal.signal(signal.SIGTERM, lambda *_: None)
    with contextlib.suppress(EOFError, OSError):
        while True:
            order = pickle.loads(pipe.recv_bytes())  # noqa: S301 - from our own parent
            pipe.send_bytes(pickle.dumps(_call(*order)))


def _call(module: str, name: str, payload: bytes, give_up_on: _Errors) -> tuple[Any, ...]:
    try:
        function, binding = _found(module, name)
        result = function(**binding.arguments(payload))
        return "returned", None if result is None else codec.encode(result)
    except BaseException as error:
        # Every error of a handler is an answer, with the traceback that the parent cannot see.
        if (outcome := chosen(error)) is not None:
            return "outcome", outcome
        kind = f"{type(error).__module__}.{type(error).__qualname__}"
        return "raised", kind, traceback.format_exc(), isinstance(error, give_up_on)


@functools.cache
def _found(module: str, name: str) -> tuple[Callable[..., Any], Binding]:
    found = getattr(importlib.import_module(module), name)
    # A decorated function is a `JobHandler` in its module; one that was only added is itself.
    function = found.handler.function if hasattr(found, "handler") else found
    return function, Binding(function)
