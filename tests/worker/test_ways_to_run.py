"""The ways to run a worker: inside somebody's own loop, from the command line, several at once, reloading."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from quorra_worker_sdk import AsyncClient, BadHandler, NewJob, Retry, Unauthenticated, Worker

from tests.support.processes import BIN, Running, RunningServer, start_process, start_worker
from tests.support.rest import Rest
from tests.support.waiting import eventually, eventually_sync

WORKS = """
    import os
    import signal
    from quorra_worker_sdk import Worker

    worker = Worker()

    @worker.job("pid")
    async def pid() -> int:
        return os.getpid()
"""


@pytest.fixture
async def client(server: RunningServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.grpc_address, api_key=server.api_key) as client:
        yield client


def _worker(server: RunningServer) -> Worker[None]:
    worker: Worker[None] = Worker(server.grpc_address, api_key=server.api_key, slots=5)

    @worker.job("quick")
    async def quick() -> str:
        return "done"

    @worker.job("hangs")
    async def hangs() -> None:
        await asyncio.sleep(600)

    return worker


async def test_a_worker_serves_in_somebodys_loop_and_leaves_signals_alone(
    server: RunningServer, client: AsyncClient
) -> None:
    worker = _worker(server)
    before = signal.getsignal(signal.SIGTERM)
    for _ in range(2):
        serving = asyncio.create_task(worker.serve())
        submitted = await client.submit(NewJob("quick", {}))
        done = await client.wait(submitted.id, timeout=timedelta(seconds=20))
        worker.stop()
        await asyncio.wait_for(serving, 10)

        assert ("succeeded", "done") == (done.status, done.result)
    assert before == signal.getsignal(signal.SIGTERM)


async def test_a_cancelled_worker_gives_its_jobs_back_uncharged(server: RunningServer, client: AsyncClient) -> None:
    serving = asyncio.create_task(_worker(server).serve())
    job_id = (await client.submit(NewJob("hangs", {}))).id
    await eventually(lambda: _has_status(client, job_id, "processing"), "it runs")

    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(serving, 10)
    job = await client.get(job_id)

    assert ("pending", 0) == (job.status, job.attempts)


async def _has_status(client: AsyncClient, job_id: str, status: str) -> bool:
    return (await client.get(job_id)).status == status


async def test_a_worker_that_cannot_work_says_why(server: RunningServer) -> None:
    with pytest.raises(BadHandler, match="no handler"):
        await Worker(server.grpc_address).serve()
    worker = _worker(server)
    worker.api_key = "wrong"
    with pytest.raises(Unauthenticated):
        await asyncio.wait_for(worker.serve(), 10)


def test_a_client_outlives_the_loop_that_it_was_first_used_in(server: RunningServer) -> None:
    worker = _worker(server)
    handler = worker.job("later")(later)

    first = asyncio.run(_enqueue(handler))
    second = asyncio.run(_enqueue(handler))
    third = handler.enqueue_sync().id

    assert 3 == len({first, second, third})


async def later() -> None: ...


async def _enqueue(handler: object) -> str:
    return str((await handler.enqueue()).id)  # type: ignore[attr-defined]


def test_a_killed_worker_process_is_replaced_and_all_stop_together(server: RunningServer, tmp_path: Path) -> None:
    rest = Rest(server)
    with start_worker(server, WORKS, tmp_path, arguments=("--processes", "2")) as parent:
        killed = int(rest.ended(rest.submit("pid"))["result"])
        os.kill(killed, signal.SIGKILL)

        eventually_sync(lambda: "starting another" in parent.log, "it is replaced")
        eventually_sync(lambda: 2 == len(_workers(parent)), "there are two again")
        children = _workers(parent)
        code = parent.terminate()

    assert 0 == code
    assert [] == [child.pid for child in children if child.is_running()]


def test_the_processes_of_a_killed_parent_stop_by_themselves(server: RunningServer, tmp_path: Path) -> None:
    rest = Rest(server)
    with start_worker(server, WORKS, tmp_path, arguments=("--processes", "2")) as parent:
        rest.ended(rest.submit("pid"))
        children = eventually_sync(lambda: found if len(found := _workers(parent)) == 2 else None, "both are there")
        parent.kill()

        assert children is not None
        eventually_sync(lambda: not any(child.is_running() for child in children), "they are gone", timeout=20)


def _workers(parent: Running) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(parent.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


def test_a_changed_file_is_loaded_again_and_a_broken_one_waits_for_its_mending(
    server: RunningServer, tmp_path: Path
) -> None:
    rest = Rest(server)
    file = tmp_path / "reloaded.py"
    text = 'from quorra_worker_sdk import Worker\nworker = Worker()\nworker.job("version")(lambda: {number})\n'
    file.write_text(text.format(number=1))
    command = [str(BIN / "quorra-worker"), "reloaded:worker", "--reload"]
    with start_process(command, server.environment, cwd=tmp_path) as worker:
        first = rest.ended(rest.submit("version"))["result"]
        file.write_text("this is no Python")
        eventually_sync(lambda: "SyntaxError" in worker.log, "the mistake is shown", timeout=20)
        # Of another length: Python takes a file of the same second and size for the one that it compiled before.
        file.write_text(text.format(number=22))
        second = rest.ended(rest.submit("version"))["result"]
        code = worker.terminate()

    assert (1, 22) == (first, second)
    assert 0 == code


def test_a_handler_that_is_stuck_in_a_thread_does_not_hold_up_the_stop(server: RunningServer, tmp_path: Path) -> None:
    module = """
        import time
        from datetime import timedelta
        from quorra_worker_sdk import Worker

        worker = Worker(grace=timedelta(seconds=0.5))

        @worker.job("stuck")
        def stuck() -> None:
            time.sleep(600)
    """
    rest = Rest(server)
    with start_worker(server, module, tmp_path) as worker:
        job_id = rest.submit("stuck")
        rest.until(job_id, "processing")
        began = time.monotonic()
        code = worker.terminate()

    assert 0 == code
    assert time.monotonic() - began < 10
    assert ("pending", 0) == (rest.job(job_id)["status"], rest.job(job_id)["attempts"])


def test_a_queue_that_is_named_again_keeps_the_bound_that_its_worker_gave_it(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("""
from quorra_worker_sdk import Worker

class Shows(Worker):
    def run(self):
        print("queues:", self.queues)

w = Shows(queues={"cpu": 2, "email": 3})
""")
    command = [str(BIN / "quorra-worker"), "m:w", "--queues", "cpu,other"]
    with start_process(command, {}, cwd=tmp_path) as worker:
        assert 0 == worker.process.wait(20)
        assert "queues: {'cpu': 2, 'other': 0}" in worker.log


@pytest.mark.parametrize("slots", [0, -1])
def test_slots_that_cannot_be_meant_are_refused(slots: int) -> None:
    with pytest.raises(ValueError, match="use 1 or more"):
        Worker(slots=slots)


@pytest.mark.parametrize("kinds", ["ValueError", [ValueError, "KeyError"], ValueError("an error")])
def test_a_retry_gives_up_on_classes_of_errors_only(kinds: Any) -> None:
    with pytest.raises(TypeError, match="give_up_on holds"):
        Retry(give_up_on=kinds)


def test_options_out_of_range_are_refused(tmp_path: Path) -> None:
    for arguments in (["--slots", "0"], ["--processes", "-1"], ["--queues", ","]):
        with start_process([str(BIN / "quorra-worker"), "m:w", *arguments], {}, cwd=tmp_path) as worker:
            assert 2 == worker.process.wait(20)
            assert arguments[0] in worker.log
