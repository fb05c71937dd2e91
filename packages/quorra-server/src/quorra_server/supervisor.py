"""`--workers N`: several server processes that share the ports; a dead one is replaced.

Imports neither Sanic nor grpc, and spawns: a process that has threads of grpc's must not be forked. The standard input
of a process is a pipe from here: however the supervisor ends, the pipe ends with it, and the process drains and ends.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from quorra_server.config import Address, Listen

LOOK_SECONDS = 0.1
RESPAWN_SECONDS = (0.2, 10.0)
# A process that lived that long was well; its replacement starts at once.
WELL_SECONDS = 30.0
# Tells a process that the end of its standard input is the end of its supervisor.
SUPERVISED = "--supervised"
EXIT_OK = 0
EXIT_FAILURE = 1


@dataclass(slots=True)
class _Node:
    process: subprocess.Popen[bytes] | None
    started_at: float
    respawn_at: float
    pause: float


def claim(listen: Listen) -> str | None:
    """Say why the ports cannot be ours: SO_REUSEPORT, with which several processes share them, would hide it."""
    return _claim(listen.http) or _claim(listen.grpc)


def _claim(address: Address) -> str | None:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.bind_host.strip("[]"), address.port))
            probe.listen()
        except OSError as error:
            return f"{address} cannot be bound: {error}. Is another server running on that port?"
    return None


def supervise(count: int, name: str, environment: Mapping[str, str]) -> int:
    """Run `count` server processes until a signal says stop; return the exit code.

    Args:
        count: How many processes share the ports.
        name: What the names of all of them begin with.
        environment: Theirs, but for what the supervisor adds.
    """
    stopping: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopping.append(number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with tempfile.TemporaryDirectory(prefix="quorra-metrics-", ignore_cleanup_errors=True) as counts:
        child = {**environment, "PROMETHEUS_MULTIPROC_DIR": counts}
        nodes = [_Node(_spawn(name, child), time.monotonic(), 0.0, RESPAWN_SECONDS[0]) for _ in range(count)]
        while not stopping:
            for node in nodes:
                _look_after(node, name, child, Path(counts))
            time.sleep(LOOK_SECONDS)
        return _stop_all(nodes)


def _spawn(name: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "quorra_server", "serve", SUPERVISED]
    # A process ignores the wake-ups that carry its own name: no two of them may have the same.
    own = {**environment, "QUORRA_NODE_NAME": f"{name}-{secrets.token_hex(3)}"}
    return subprocess.Popen(command, env=own, stdin=subprocess.PIPE)


def _look_after(node: _Node, name: str, environment: Mapping[str, str], counts: Path) -> None:
    now = time.monotonic()
    if node.process is not None and node.process.poll() is not None:
        was_well = now - node.started_at > WELL_SECONDS
        node.pause = RESPAWN_SECONDS[0] if was_well else min(node.pause * 2, RESPAWN_SECONDS[1])
        node.respawn_at = now + node.pause
        print(  # noqa: T201
            f"quorra-server: process {node.process.pid} ended with {node.process.returncode}; "
            f"the next one starts in {node.pause:.1f} s",
            file=sys.stderr,
        )
        # What it counted stays counted; what it held it holds no more.
        for gauge in counts.glob(f"gauge_live*_{node.process.pid}.db"):
            gauge.unlink()
        node.process = None
    if node.process is None and now >= node.respawn_at:
        node.process, node.started_at = _spawn(name, environment), now


def _stop_all(nodes: list[_Node]) -> int:
    processes = [node.process for node in nodes if node.process is not None]
    for process in processes:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
    codes = [process.wait() for process in processes]
    # A node that was still starting ends by the signal itself.
    return EXIT_OK if all(code in (0, -signal.SIGTERM) for code in codes) else EXIT_FAILURE
