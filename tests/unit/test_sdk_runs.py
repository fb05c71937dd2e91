"""What a worker does with a job whose lease is over before its run has begun."""

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_worker_sdk import Worker

from tests.support.services import free_port

SECONDS_MAX = 10.0


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="from Python 3.12 on a run takes its first step at once")
async def test_a_run_that_is_ended_before_its_first_step_never_runs_and_gives_its_slot_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("quorra_worker_sdk.worker.RECEIPTS_SECONDS_MAX", 0.1)
    ran: asyncio.Queue[str] = asyncio.Queue()
    worker = Worker(f"127.0.0.1:{free_port()}", slots=1, api_key="unused")

    @worker.job("work")
    async def work(name: str) -> None:
        ran.put_nowait(name)
        await asyncio.sleep(0)

    async with _serving(worker):
        ended, other = _job("ended"), _job("other")
        # In one turn of the loop: the run has its slot, and its task has not taken a step.
        worker.jobs_arrived([ended])
        worker.leases_ended([pb.LeaseEnded(lease_id=ended.lease_id, reason="cancelled")])
        worker.jobs_arrived([other])

        assert "other" == await asyncio.wait_for(ran.get(), SECONDS_MAX)
    assert ran.empty()


@asynccontextmanager
async def _serving(worker: Worker[None]) -> AsyncIterator[None]:
    """Serve without a server: the stream is opened again and again, and everything else works."""
    serving = asyncio.create_task(worker.serve())
    # The first turn sets everything up.
    await asyncio.sleep(0)
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def _job(name: str) -> pb.Job:
    return pb.Job(
        id=str(uuid.uuid4()),
        lease_id=f"1.{name}",
        type="work",
        queue="default",
        payload=f'{{"name": "{name}"}}'.encode(),
        lease_expires_in_ms=60_000,
    )
