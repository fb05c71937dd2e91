"""`quorra-worker module:worker` runs a worker; the current directory is on the import path."""

import argparse
import contextlib
import importlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from multiprocessing.process import BaseProcess

from quorra_worker_sdk.errors import BadHandler, QuorraError
from quorra_worker_sdk.executor import THREAD_NAME
from quorra_worker_sdk.worker import Worker

COUNT_MAX = 10_000
EXIT_OK, EXIT_FAILURE, EXIT_USAGE = 0, 1, 2
LOOK_SECONDS = 0.5
RELOAD_LOOK_SECONDS = 0.5
# A job that kills its worker at once must not keep the machine busy with starting workers.
RESTART_PAUSE_SECONDS = 1.0
THREADS_SECONDS_MAX = 1.0
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

log = logging.getLogger("quorra.worker")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    sys.path.insert(0, os.getcwd())
    logging.basicConfig(level=options.log_level.upper(), format=LOG_FORMAT)
    if options.reload:
        return _run_reloading(options)
    if options.processes > 1:
        return _run_several(options)
    return _run_one(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="quorra-worker", description="Run a Quorra worker.")
    parser.add_argument("worker", metavar="module:worker", help="where the worker is, such as app.jobs:worker")
    parser.add_argument("--queues", type=_names, help="comma list, instead of the worker's own")
    parser.add_argument("--slots", type=_count, help="jobs that run at the same time")
    parser.add_argument("--processes", type=_count, default=1, metavar="N", help="worker processes (default 1)")
    parser.add_argument("--reload", action="store_true", help="development: start again when a Python file changes")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    parser.add_argument("--version", action="version", version=f"quorra-worker {version('quorra-worker-sdk')}")
    return parser


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("name a queue, such as default,email")
    return names


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= COUNT_MAX:
        raise argparse.ArgumentTypeError(f"use a whole number from 1 to {COUNT_MAX}")
    return int(text)


def _run_one(options: argparse.Namespace) -> int:
    try:
        worker = load_worker(options.worker)
    except (ImportError, AttributeError, TypeError, ValueError, BadHandler) as error:
        print(f"quorra-worker: {options.worker} cannot be loaded: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_USAGE
    if options.queues:
        # A queue that the worker bounds stays bounded.
        worker.queues = {name: worker.queues.get(name, 0) for name in options.queues}
    if options.slots:
        worker.slots = options.slots
    _use_uvloop()
    try:
        worker.run()
    except QuorraError as error:
        print(f"quorra-worker: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_FAILURE
    _leave_stuck_threads()
    return EXIT_OK


def _leave_stuck_threads() -> None:
    """End the process at once if a handler is stuck in a thread: Python would wait for it, for ever perhaps."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)]
    deadline = time.monotonic() + THREADS_SECONDS_MAX
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    stuck = [thread.name for thread in threads if thread.is_alive()]
    if stuck:
        log.warning("%d handlers are stuck in their threads; leaving them", len(stuck))
        logging.shutdown()
        sys.stdout.flush()
        os._exit(EXIT_OK)


def load_worker(place: str) -> Worker[object]:
    """Return the worker at `module:name`.

    Raises:
        ImportError, AttributeError, TypeError, ValueError: It is not there; the message says what is.
    """
    module_name, colon, name = place.partition(":")
    if not colon:
        raise ValueError("name it as module:worker, such as app.jobs:worker")
    found = getattr(importlib.import_module(module_name), name)
    if not isinstance(found, Worker):
        raise TypeError(f"{name} is a {type(found).__name__}, not a Worker")
    return found


def _use_uvloop() -> None:
    # An extra: faster where it is installed, not needed anywhere.
    try:
        import uvloop
    except ImportError:
        return
    import asyncio

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def _run_several(options: argparse.Namespace) -> int:
    """Run worker processes, each with its own id, connection and slots; one that dies is replaced.

    A signal is passed on to all. One that ends by itself was refused, for example for its key, and ends them all.
    """
    group = _Group(options)
    members = [group.start() for _ in range(options.processes)]
    while any(member.is_alive() for member in members):
        multiprocessing.connection.wait([member.sentinel for member in members if member.is_alive()], LOOK_SECONDS)
        for place, member in enumerate(members):
            if member.exitcode is None or group.stopping:
                continue
            if member.exitcode >= 0:
                group.stop(signal.SIGTERM)
                continue
            log.warning("worker process %s was killed (signal %d); starting another", member.pid, -member.exitcode)
            time.sleep(RESTART_PAUSE_SECONDS)
            if not group.stopping:
                members[place] = group.start()
    # One that was still starting ends by the signal itself.
    return EXIT_OK if all(member.exitcode in (0, -signal.SIGTERM) for member in members) else EXIT_FAILURE


class _Group:
    """Child processes that get the signals of this one."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.stopping = False
        self._options = options
        self._children: list[BaseProcess] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self.stop(number))

    def start(self) -> BaseProcess:
        process = multiprocessing.get_context("spawn").Process(target=_child, args=(self._options, os.getpid()))
        process.start()
        self._children = [child for child in self._children if child.is_alive()] + [process]
        if self.stopping:
            # The signal came while the process was being made.
            process.terminate()
        return process

    def stop(self, number: int) -> None:
        self.stopping = True
        for child in self._children:
            if child.pid is not None and child.is_alive():
                os.kill(child.pid, number)


def _child(options: argparse.Namespace, parent: int) -> None:
    # Ctrl-C is for the parent, which passes it on once: a second one hurries.
    os.setpgrp()
    sys.path.insert(0, os.getcwd())
    logging.basicConfig(level=options.log_level.upper(), format=LOG_FORMAT)
    threading.Thread(target=_stop_without_parent, args=(parent,), daemon=True).start()
    sys.exit(_run_one(options))


def _stop_without_parent(parent: int) -> None:
    # A parent that was killed passes no signals on: its workers would go on for ever, and nobody would know them.
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _run_reloading(options: argparse.Namespace) -> int:
    """Run one worker process, and another whenever a Python file below the current directory changes."""
    group = _Group(options)
    while not group.stopping:
        seen = _python_files()
        process = group.start()
        while process.is_alive() and not group.stopping and _python_files() == seen:
            process.join(RELOAD_LOOK_SECONDS)
        if process.is_alive() and not group.stopping:
            log.info("a file has changed; starting again")
            process.terminate()
        process.join()
        while not group.stopping and _python_files() == seen:
            time.sleep(RELOAD_LOOK_SECONDS)
    return EXIT_OK


def _python_files() -> dict[str, int]:
    """Return every Python file below the current directory with the time of its last change."""
    found: dict[str, int] = {}
    for folder, below, names in os.walk("."):
        below[:] = [name for name in below if not name.startswith((".", "__pycache__"))]
        for path in (os.path.join(folder, name) for name in names if name.endswith(".py")):
            with contextlib.suppress(FileNotFoundError):
                found[path] = os.stat(path).st_mtime_ns
    return found


if __name__ == "__main__":
    raise SystemExit(main())
