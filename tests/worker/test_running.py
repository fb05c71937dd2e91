"""How the SDK runs handlers: where, for how long, and how they are stopped. Real server, real worker processes."""

import asyncio
import os
import signal
import time
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest

from tests.support.processes import RunningServer, start_process, start_worker
from tests.support.proxy import Proxy
from tests.support.rest import Rest
from tests.support.waiting import eventually, eventually_sync, eventually_text, written

MODULE = """
    import asyncio, os, subprocess, threading, time
    from collections.abc import AsyncIterator
    from contextlib import asynccontextmanager
    from dataclasses import dataclass
    from datetime import timedelta
    from pathlib import Path
    from typing import Any, TypedDict

    import msgspec
    from quorra_worker_sdk import Context, Worker

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[dict[str, str]]:
        yield {"greeting": "hello"}

    worker = Worker(slots=5, lifespan=lifespan, lease_ttl=timedelta(seconds=2))

    @dataclass
    class Point:
        x: int
        y: int = 0

    class Order(msgspec.Struct):
        items: list[str]

    class Person(TypedDict):
        name: str

    @worker.job("parameters")
    async def parameters(a: int, b: str = "b", *, c: list[int] = []) -> list[Any]:
        return [a, b, c]

    @worker.job("point")
    def point(point: Point) -> int:
        return point.x + point.y

    @worker.job("order")
    async def order(order: Order) -> int:
        return len(order.items)

    @worker.job("person")
    async def person(person: Person) -> str:
        return person["name"]

    @worker.job("anything")
    async def anything(**payload: Any) -> list[str]:
        return sorted(payload)

    @worker.job("deps")
    async def deps(ctx: Context[dict[str, str]]) -> str:
        ctx.progress(3, 4, "almost")
        ctx.log_line("I was here", "warning")
        return ctx.deps["greeting"]

    @worker.job("thread")
    def thread() -> str:
        return threading.current_thread().name

    @worker.job("process", executor="process")
    def process() -> int:
        return os.getpid()

    @worker.job("process_error", executor="process")
    def process_error() -> None:
        raise ValueError("from far away")

    @worker.job("process_hangs", executor="process", timeout=timedelta(seconds=4))  # starting one takes a while
    def process_hangs() -> None:
        Path("pid").write_text(str(os.getpid()))
        time.sleep(600)

    @worker.job("process_works", executor="process")
    def process_works() -> str:
        Path("pid").write_text(str(os.getpid()))
        while not Path("go").exists():
            time.sleep(0.02)
        return "done"

    @worker.job("process_ends_a_program", executor="process")
    def process_ends_a_program() -> int:
        program = subprocess.Popen(["sleep", "600"])
        program.terminate()
        return program.wait()

    @worker.job("hangs")
    async def hangs(ctx: Context[Any]) -> None:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            Path("stopped").write_text(str(ctx.cancelled()))
            raise

    @worker.job("too_long", timeout=timedelta(milliseconds=100))
    async def too_long() -> None:
        await asyncio.sleep(600)

    @worker.job("extends", timeout=timedelta(milliseconds=200))
    async def extends(ctx: Context[Any]) -> str:
        ctx.extend(timedelta(seconds=20))
        await asyncio.sleep(0.6)
        return "in time"

    @worker.job("blocks")
    async def blocks() -> str:
        time.sleep(5)  # holds the event loop for more than two leases
        return "done"
"""


@pytest.fixture
def rest(server: RunningServer, tmp_path: Path) -> Rest:
    return Rest(server)


def test_payloads_become_arguments_and_results_come_back(server: RunningServer, rest: Rest, tmp_path: Path) -> None:
    wanted: list[tuple[str, dict[str, object], object]] = [
        ("parameters", {"a": 1}, [1, "b", []]),
        ("parameters", {"a": 1, "b": "x", "c": [2]}, [1, "x", [2]]),
        ("point", {"x": 3, "y": 4}, 7),
        ("order", {"items": ["a", "b"]}, 2),
        ("person", {"name": "ada"}, "ada"),
        ("anything", {"q": 1, "p": 2}, ["p", "q"]),
        ("deps", {}, "hello"),
    ]
    with start_worker(server, MODULE, tmp_path):
        ids = [rest.submit(type_, payload) for type_, payload, _ in wanted]
        results = [rest.ended(job_id)["result"] for job_id in ids]
        told = eventually_sync(lambda: rest.job(ids[-1]).get("progress"), "progress is kept")
        lines = rest.http.get(f"/v1/jobs/{ids[-1]}/logs").json()["lines"]

    assert [result for _, _, result in wanted] == results
    assert {"done": 3, "total": 4, "note": "almost"} == told
    assert [("warning", "I was here")] == [(line["level"], line["message"]) for line in lines]


def test_handlers_run_on_the_loop_in_threads_and_in_processes(
    server: RunningServer, rest: Rest, tmp_path: Path
) -> None:
    with start_worker(server, MODULE, tmp_path) as worker:
        thread = rest.ended(rest.submit("thread"))["result"]
        process = rest.ended(rest.submit("process"))["result"]
        error = rest.ended(rest.submit("process_error", max_retries=0))

        assert thread.startswith("quorra-handler")
        assert process not in (worker.process.pid, os.getpid())
        assert "ValueError: from far away" in error["last_error"]


def test_a_timeout_fails_the_run_and_really_kills_a_process(server: RunningServer, rest: Rest, tmp_path: Path) -> None:
    with start_worker(server, MODULE, tmp_path):
        slow = rest.ended(rest.submit("too_long", max_retries=0))
        hung = rest.ended(rest.submit("process_hangs", max_retries=0))
        pid = int((tmp_path / "pid").read_text())
        eventually_sync(lambda: not Path(f"/proc/{pid}").exists(), "the process is gone")
        still_works = rest.ended(rest.submit("process"))["status"]
        extended = rest.ended(rest.submit("extends"))

    assert "longer than its timeout" in slow["last_error"]
    assert "longer than its timeout" in hung["last_error"]
    assert "succeeded" == still_works
    assert ("in time", 1) == (extended["result"], extended["attempts"])


def test_a_sigterm_to_the_whole_group_lets_handlers_in_processes_end(
    server: RunningServer, rest: Rest, tmp_path: Path
) -> None:
    with start_worker(server, MODULE, tmp_path) as worker:
        job_id = rest.submit("process_works", max_retries=0)
        pid = int(eventually_text(tmp_path / "pid", "it runs"))
        for number in (worker.process.pid, pid):
            os.kill(number, signal.SIGTERM)
        eventually_sync(lambda: "draining" in worker.log, "it drains")
        (tmp_path / "go").touch()
        code = worker.process.wait(20)

    assert 0 == code
    assert ("succeeded", "done") == (rest.job(job_id)["status"], rest.job(job_id)["result"])
    assert not Path(f"/proc/{pid}").exists()


def test_a_program_that_a_handler_in_a_process_started_can_be_ended(
    server: RunningServer, rest: Rest, tmp_path: Path
) -> None:
    """What ignores SIGTERM leaves that to the programs that it starts."""
    with start_worker(server, MODULE, tmp_path):
        code = rest.ended(rest.submit("process_ends_a_program"))["result"]

    assert -signal.SIGTERM == code


def test_a_process_that_died_between_two_jobs_is_not_used_again(
    server: RunningServer, rest: Rest, tmp_path: Path
) -> None:
    with start_worker(server, MODULE, tmp_path):
        first = rest.ended(rest.submit("process"))["result"]
        os.kill(first, signal.SIGKILL)
        eventually_sync(lambda: psutil.STATUS_ZOMBIE == psutil.Process(first).status(), "it is dead")
        second = rest.ended(rest.submit("process", max_retries=0))

    assert "succeeded" == second["status"]
    assert first != second["result"]


def test_cancelling_a_running_job_reaches_its_handler(server: RunningServer, rest: Rest, tmp_path: Path) -> None:
    with start_worker(server, MODULE, tmp_path):
        job_id = rest.submit("hangs")
        rest.until(job_id, "processing")
        cancelled_at = time.monotonic()
        rest.http.post(f"/v1/jobs/{job_id}/cancel")

        assert "cancelled" == eventually_text(tmp_path / "stopped", "the handler was stopped")

    assert time.monotonic() - cancelled_at < 2
    assert ["cancelled"] == rest.history(job_id)


def test_a_handler_that_blocks_the_loop_keeps_its_lease(server: RunningServer, rest: Rest, tmp_path: Path) -> None:
    with start_worker(server, MODULE, tmp_path):
        done = rest.ended(rest.submit("blocks"))

    assert ("succeeded", 1, "done") == (done["status"], done["attempts"], done["result"])
    assert ["succeeded"] == rest.history(done["id"])


def test_a_worker_with_a_wrong_key_ends_with_a_sentence(server: RunningServer, tmp_path: Path) -> None:
    with start_worker(server, MODULE, tmp_path, environment={"QUORRA_API_KEY": "wrong"}) as worker:
        code = worker.process.wait(20)

    assert 1 == code


def test_a_worker_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    from tests.support.processes import BIN

    with start_process([str(BIN / "quorra-worker"), "nothing:worker"], {}, cwd=tmp_path) as worker:
        code = worker.process.wait(20)
        assert "nothing:worker cannot be loaded" in worker.log

    assert 2 == code


def test_several_processes_have_ids_of_their_own_and_stop_together(
    server: RunningServer, rest: Rest, tmp_path: Path
) -> None:
    with start_worker(server, MODULE, tmp_path, arguments=("--processes", "2")) as worker:
        workers = eventually_sync(
            lambda: found if len(found := rest.http.get("/v1/workers").json()["workers"]) == 2 else None,
            "both are there",
        )
        code = worker.terminate()

    assert workers is not None
    assert 2 == len({entry["worker_id"] for entry in workers})
    assert 0 == code


async def test_a_cut_connection_is_opened_again_and_nothing_runs_twice(
    server: RunningServer, rest: Rest, tmp_path: Path
) -> None:
    module = """
        import asyncio
        from pathlib import Path
        from quorra_worker_sdk import Worker

        worker = Worker(slots=5)

        @worker.job("careful")
        async def careful() -> None:
            with open("runs", "a") as file:
                file.write("run\\n")
            while not Path("go").exists():
                await asyncio.sleep(0.02)
    """
    host, _, port = server.grpc_address.partition(":")
    async with Proxy(host, int(port)) as proxy:
        environment = {"QUORRA_GRPC_ADDR": proxy.address}
        with start_worker(server, module, tmp_path, environment=environment):
            job_id = rest.submit("careful")

            async def runs() -> bool:
                return bool(rest.job(job_id)["status"] == "processing")

            await eventually(runs, "it runs")
            proxy.cut()
            (tmp_path / "go").touch()

            async def is_done() -> bool:
                return bool(rest.job(job_id)["status"] == "succeeded")

            await eventually(is_done, "its report arrived on another stream", timeout=15)

    assert ["succeeded"] == rest.history(job_id)
    assert "run\n" == (tmp_path / "runs").read_text()


async def test_the_bound_of_a_queue_holds_across_a_reconnect(server: RunningServer, rest: Rest, tmp_path: Path) -> None:
    module = """
        import asyncio
        from pathlib import Path
        from quorra_worker_sdk import Worker

        worker = Worker(queues={"scarce": 1, "plenty": 8})

        @worker.job("long")
        async def long() -> None:
            while not Path("go").exists():
                await asyncio.sleep(0.02)

        @worker.job("short")
        async def short() -> None:
            pass
    """
    host, _, port = server.grpc_address.partition(":")
    async with Proxy(host, int(port)) as proxy:
        with start_worker(server, module, tmp_path, environment={"QUORRA_GRPC_ADDR": proxy.address}) as worker:
            first = rest.submit("long", queue="scarce")
            await asyncio.to_thread(rest.until, first, "processing")

            proxy.cut()
            await asyncio.to_thread(eventually_sync, lambda: 2 == worker.log.count("connected to"), "it is back")
            second = rest.submit("long", queue="scarce")
            await asyncio.to_thread(rest.ended, rest.submit("short", queue="plenty"))
            meanwhile = rest.job(second)["status"]
            (tmp_path / "go").touch()
            ended = [await asyncio.to_thread(rest.ended, job) for job in (first, second)]

    assert "pending" == meanwhile
    assert [("succeeded", 1)] * 2 == [(job["status"], job["attempts"]) for job in ended]


async def test_a_worker_that_could_not_renew_stops_before_the_server_gives_the_job_away(
    server: RunningServer, rest: Rest, tmp_path: Path
) -> None:
    host, _, port = server.grpc_address.partition(":")
    async with Proxy(host, int(port)) as proxy:
        with start_worker(server, MODULE, tmp_path, environment={"QUORRA_GRPC_ADDR": proxy.address}):
            job_id = rest.submit("hangs")

            async def runs() -> bool:
                return bool(rest.job(job_id)["status"] == "processing")

            await eventually(runs, "it runs")
            proxy.swallow_to_target = proxy.swallow_to_client = proxy.refuses = True

            async def is_stopped() -> bool:
                return bool(written(tmp_path / "stopped"))

            await eventually(is_stopped, "the handler is cancelled")
            status = rest.job(job_id)["status"]

    assert "lost" == (tmp_path / "stopped").read_text()
    assert "processing" == status


def test_a_second_sigterm_hurries(server: RunningServer, rest: Rest, tmp_path: Path) -> None:
    with start_worker(server, MODULE, tmp_path) as worker:
        job_id = rest.submit("hangs")
        rest.until(job_id, "processing")
        worker.signal(signal.SIGTERM)
        eventually_sync(lambda: "draining" in worker.log, "it drains")
        lease_until = datetime.fromisoformat(rest.job(job_id)["lease_expires_at"])

        def is_longer() -> bool:
            return datetime.fromisoformat(rest.job(job_id)["lease_expires_at"]) - lease_until >= timedelta(seconds=2)

        # A signal within a second of the first is taken for its copy.
        eventually_sync(is_longer, "it drains and renews its lease, every third of 2 s")
        worker.signal(signal.SIGTERM)
        code = worker.process.wait(10)

    job = rest.job(job_id)
    assert 0 == code
    assert ("pending", 0) == (job["status"], job["attempts"])
    assert ["released"] == rest.history(job_id)
