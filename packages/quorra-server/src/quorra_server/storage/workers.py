"""Workers as operators see them: who lives, with which queues and types."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from quorra_server.storage.database import Executor
from quorra_server.storage.statements import statement

RECORD_WORKER = statement("record_worker")
BEAT_WORKER = statement("beat_worker")
BEAT_STREAMS = statement("beat_streams")
FORGET_WORKERS = statement("forget_workers")
LIST_WORKERS = statement("list_workers")
# Three heartbeats of the default lease, and some air.
SILENT_FOR_AT_MOST = timedelta(seconds=45)


@dataclass(frozen=True, slots=True)
class WorkerHello:
    """How a worker introduced itself; `boot_id` is random for each start of its process."""

    worker: str
    boot_id: str
    node: str
    host: str = ""
    pid: int = 0
    sdk: str = ""
    slots: int = 0
    queues: Sequence[str] = ()
    types: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A worker that was heard of lately."""

    worker: str
    boot_id: str
    node: str
    host: str
    pid: int
    sdk: str
    slots: int
    running: int
    queues: tuple[str, ...]
    types: tuple[str, ...]
    labels: dict[str, str]
    started_at: datetime
    last_beat_at: datetime


async def record_worker(executor: Executor, hello: WorkerHello) -> None:
    """Note that a worker lives."""
    await executor.fetch(
        RECORD_WORKER,
        hello.worker,
        hello.boot_id,
        hello.node,
        hello.host,
        hello.pid,
        hello.sdk,
        hello.slots,
        list(hello.queues),
        list(hello.types),
        json.dumps(dict(hello.labels)),
    )


async def beat_worker(executor: Executor, worker: str, boot_id: str, running: int) -> None:
    """Note a worker's heartbeat."""
    await executor.fetch(BEAT_WORKER, worker, boot_id, running)


async def beat_streams(executor: Executor, workers: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Note that workers live, each named with its boot id, as their streams are open; return those that are known."""
    rows = await executor.fetch(BEAT_STREAMS, [worker for worker, _ in workers], [boot_id for _, boot_id in workers])
    return {(worker, boot_id) for worker, boot_id in rows}


async def forget_worker(executor: Executor, worker: str, boot_id: str) -> None:
    """Forget a worker that said goodbye."""
    await executor.fetch(FORGET_WORKERS, worker, boot_id, timedelta())


async def forget_silent_workers(executor: Executor, silent_for: timedelta) -> None:
    """Forget all workers that have been silent for so long."""
    await executor.fetch(FORGET_WORKERS, None, None, silent_for)


async def list_workers(executor: Executor, silent_for_at_most: timedelta = SILENT_FOR_AT_MOST) -> list[LiveWorker]:
    """List the workers that were heard of lately."""
    rows = await executor.fetch(LIST_WORKERS, silent_for_at_most)
    return [_live(dict(row.items())) for row in rows]


def _live(fields: dict[str, Any]) -> LiveWorker:
    fields["queues"] = tuple(fields["queues"])
    fields["types"] = tuple(fields["types"])
    fields["labels"] = json.loads(fields["labels"])
    return LiveWorker(**fields)
