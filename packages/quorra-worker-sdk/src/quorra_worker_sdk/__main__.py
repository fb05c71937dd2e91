"""`quorra-worker module:worker` runs a worker; the current directory is on the import path."""

import argparse
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from types import FrameType

from quorra_worker_sdk.errors import QuorraError
from quorra_worker_sdk.worker import Worker

EXIT_OK, EXIT_FAILURE, EXIT_USAGE = 0, 1, 2
LOOK_SECONDS = 0.1
RELOAD_LOOK_SECONDS = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    sys.path.insert(0, os.getcwd())
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if options.reload:
        return _run_reloading(options)
    if options.processes > 1:
        return _run_several(options, options.processes)
    return _run_one(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="quorra-worker", description="Run a Quorra worker.")
    parser.add_argument("worker", metavar="module:worker", help="where the worker is, such as app.jobs:worker")
    parser.add_argument("--queues", help="comma list, instead of the worker's own")
    parser.add_argument("--slots", type=int, help="jobs that run at the same time")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="worker processes (default 1)")
    parser.add_argument("--reload", action="store_true", help="development: start again when a Python file changes")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    parser.add_argument("--version", action="version", version=f"quorra-worker {version('quorra-worker-sdk')}")
    return parser


def _run_one(options: argparse.Namespace) -> int:
    try:
        worker = load_worker(options.worker)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        print(f"quorra-worker: {options.worker} cannot be loaded: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_USAGE
    if options.queues:
        worker.queues = dict.fromkeys(options.queues.split(","), 0)
    if options.slots:
        worker.slots = options.slots
    _use_uvloop()
    try:
        worker.run()
    except QuorraError as error:
        print(f"quorra-worker: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_FAILURE
    return EXIT_OK


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


def _run_several(options: argparse.Namespace, count: int) -> int:
    """Run worker processes; each has its own id, connection and slots. A signal is passed on to all."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_child, args=(options,)) for _ in range(count)]
    for process in processes:
        process.start()

    def pass_on(number: int, _: FrameType | None) -> None:
        for process in processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    signal.signal(signal.SIGTERM, pass_on)
    # Ctrl-C reaches the children by itself: they are in our process group.
    signal.signal(signal.SIGINT, lambda *_: None)
    for process in processes:
        process.join()
    return EXIT_OK if all(process.exitcode == 0 for process in processes) else EXIT_FAILURE


def _child(options: argparse.Namespace) -> None:
    sys.path.insert(0, os.getcwd())
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sys.exit(_run_one(options))


def _run_reloading(options: argparse.Namespace) -> int:
    context = multiprocessing.get_context("spawn")
    while True:
        seen = _newest_change()
        process = context.Process(target=_child, args=(options,))
        process.start()
        try:
            while process.is_alive() and _newest_change() == seen:
                time.sleep(RELOAD_LOOK_SECONDS)
        except KeyboardInterrupt:
            process.join()
            return EXIT_OK
        if process.is_alive():
            process.terminate()
        process.join()
        while _newest_change() == seen:
            time.sleep(RELOAD_LOOK_SECONDS)


def _newest_change() -> float:
    newest = 0.0
    for folder, _, files in os.walk("."):
        if "/." in folder or "__pycache__" in folder:
            continue
        newest = max(
            [newest, *(os.stat(os.path.join(folder, name)).st_mtime for name in files if name.endswith(".py"))]
        )
    return newest


if __name__ == "__main__":
    raise SystemExit(main())
