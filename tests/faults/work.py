"""The workers of a fault run: `quorra-worker tests.faults.work:worker`. What a handler does is written in its payload.

The first run of a job follows the first letter of its plan, the second run the second, and so on; past its end, and in
every later life, runs succeed:

    o  returns at once              f  raises                        s  sleeps a moment and returns
    l  sleeps longer than a lease   k  kills its worker              b  blocks the event loop for a moment
    z  snoozes                      r  asks for a retry soon         c  cancels itself      d  says that it is dead
"""

import asyncio
import logging
import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from types import FrameType

from quorra_worker_sdk import Cancel, Context, Dead, RetryAfter, Snooze, Worker

from tests.faults.history import History
from tests.faults.receipts import note_receipts

SLEEP_SECONDS = 0.3
BLOCK_SECONDS = 0.2
RETRY_SECONDS = 0.2
# A frozen loop outlasts the lease, which the heartbeat's thread renews.
FREEZE_LEASES = 1.5

LEASE_SECONDS = float(os.environ.get("FAULTS_LEASE_SECONDS", "3"))
_snoozed: set[str] = set()
history = History(Path(os.environ.get("FAULTS_FOLDER", "/tmp")), "worker")
worker = Worker(
    queues=os.environ.get("FAULTS_QUEUES", "default").split(","),
    slots=int(os.environ.get("FAULTS_SLOTS", "50")),
    lease_ttl=timedelta(seconds=LEASE_SECONDS),
    grace=timedelta(seconds=5),
    prefetch_jobs_max=200,
)


@worker.job("work")
async def work(ctx: Context[None], token: str, plan: str, delay: int = 0) -> dict[str, object]:
    """Do what the plan says for this run."""
    job = ctx.job
    step = plan[job.attempt - 1] if job.generation == 1 and job.attempt <= len(plan) else "o"
    history.write(
        "started", job=job.id, lease=job.lease_id, attempt=job.attempt, generation=job.generation, token=token
    )
    try:
        await _follow(step, token)
    except BaseException as error:
        history.write("raised", job=job.id, lease=job.lease_id, error=type(error).__name__)
        raise
    history.write("returned", job=job.id, lease=job.lease_id)
    return {"token": token, "lease": job.lease_id}


async def _follow(step: str, token: str) -> None:
    if step == "f":
        raise RuntimeError("as planned")
    if step == "s":
        await asyncio.sleep(SLEEP_SECONDS)
    elif step == "l":
        await asyncio.sleep(LEASE_SECONDS * FREEZE_LEASES)
    elif step == "k":
        # Not before the start was reported: a poison job kills its worker while it runs.
        await asyncio.sleep(SLEEP_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)
    elif step == "b":
        time.sleep(BLOCK_SECONDS)
    elif step == "z" and token not in _snoozed:
        # A snooze gives its attempt back: the next run follows the same letter.
        _snoozed.add(token)
        raise Snooze(RETRY_SECONDS)
    elif step == "r":
        raise RetryAfter(RETRY_SECONDS)
    elif step == "c":
        raise Cancel("as planned")
    elif step == "d":
        raise Dead("as planned")


def _freeze(_: int, __: FrameType | None) -> None:
    began = time.monotonic()
    time.sleep(LEASE_SECONDS * FREEZE_LEASES)
    history.write("froze", seconds=time.monotonic() - began)


signal.signal(signal.SIGUSR1, _freeze)
note_receipts(history)
logging.getLogger("quorra.worker").setLevel(logging.ERROR)
history.write("born", pid=os.getpid())
