"""Two servers on one database share the work; one of them may go at any time."""

import signal
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.support.pooler import is_pooled
from tests.support.processes import NO_TLS, RunningServer, start_server, start_worker
from tests.support.rest import Rest
from tests.support.services import free_port, own_redis
from tests.support.waiting import eventually_sync, written

RECORDER = """
    import os
    from datetime import timedelta
    from quorra_worker_sdk import Context, Worker

    worker = Worker(slots=20, lease_ttl=timedelta(seconds=5))
    out = os.open("ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @worker.job("record")
    async def record(ctx: Context[None], n: int) -> None:
        os.write(out, f"{ctx.job.id}\\n".encode())
"""


def _ran(folder: Path) -> Counter[str]:
    return Counter(written(folder / "ran").split())


def _text(url: str) -> str:
    return httpx.get(url, verify=NO_TLS).text


def test_two_servers_share_work_without_double_leases(server: RunningServer, tmp_path: Path) -> None:
    with start_server(server.database_url) as second:
        ids = Rest(server).submit_many(1500, "record") + Rest(second).submit_many(1500, "record")
        with start_worker(server, RECORDER, tmp_path), start_worker(second, RECORDER, tmp_path):
            Rest(server).until_count("default", "succeeded", 3000)
        histories = [Rest(second).history(job_id) for job_id in ids[::100]]

    assert Counter(ids) == _ran(tmp_path)
    assert [["succeeded"]] * 30 == histories


@pytest.mark.skipif(is_pooled(), reason="behind PgBouncer NOTIFY is off, as docs/operations.md says")
def test_a_job_submitted_to_one_server_wakes_a_worker_of_the_other_before_the_poll(
    database_url: str, tmp_path: Path
) -> None:
    slow_poll = {"QUORRA_POLL_INTERVAL": "60s"}
    with (
        start_server(database_url, slow_poll) as first,
        start_server(database_url, slow_poll) as second,
        start_worker(second, RECORDER, tmp_path) as worker,
    ):
        eventually_sync(lambda: "connected" in worker.log, "the worker is connected")
        metrics = f"{first.http_url}/metrics"
        eventually_sync(lambda: 'quorra_wakeup_path_up{path="postgres"} 1.0' in _text(metrics), "NOTIFY works")
        job_id = Rest(first).submit("record", {"n": 1})

        done = Rest(second).ended(job_id, 20)

    assert "succeeded" == done["status"]


def test_redis_wakes_across_servers_and_its_loss_costs_latency_only(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    settings = {"REDIS_URL": redis_url, "QUORRA_NOTIFY": "off", "QUORRA_POLL_INTERVAL": "60s"}
    without = {"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0", "QUORRA_NOTIFY": "off"}
    with (
        start_server(database_url, settings) as first,
        start_server(database_url, settings) as second,
        start_worker(second, RECORDER, tmp_path) as worker,
    ):
        eventually_sync(lambda: "connected" in worker.log, "the worker is connected")
        for server in (first, second):
            metrics = f"{server.http_url}/metrics"
            eventually_sync(lambda: 'quorra_wakeup_path_up{path="redis"} 1.0' in _text(metrics), "Redis works")  # noqa: B023
        assert "succeeded" == Rest(first).ended(Rest(first).submit("record", {"n": 1}), 20)["status"]

    with start_server(database_url, without) as alone, start_worker(alone, RECORDER, tmp_path):
        assert "succeeded" == Rest(alone).ended(Rest(alone).submit("record", {"n": 2}), 20)["status"]


def test_redis_may_stop_and_come_back_and_every_job_runs(database_url: str, tmp_path: Path) -> None:
    port = free_port()
    settings = {"REDIS_URL": f"redis://127.0.0.1:{port}/0", "QUORRA_NOTIFY": "off"}
    with (
        start_server(database_url, settings) as first,
        start_server(database_url, settings) as second,
        start_worker(second, RECORDER, tmp_path),
    ):
        rest = Rest(first)
        ids = []
        for _ in range(2):
            with own_redis(port):
                _until_redis(first, second, up=True)
                ids.append(rest.submit("record", {"n": 1}))
            _until_redis(first, second, up=False)
            ids.append(rest.submit("record", {"n": 2}))
            ready = [httpx.get(f"{server.http_url}/readyz").status_code for server in (first, second)]
            assert [200, 200] == ready
        statuses = [rest.ended(job_id, 20)["status"] for job_id in ids]

    assert ["succeeded"] * 4 == statuses
    assert Counter(ids) == _ran(tmp_path)


def _until_redis(*servers: RunningServer, up: bool) -> None:
    wanted = f'quorra_wakeup_path_up{{path="redis"}} {1.0 if up else 0.0}'
    eventually_sync(
        lambda: all(wanted in _text(f"{server.http_url}/metrics") for server in servers), wanted, timeout=15
    )


def test_a_worker_that_stops_under_load_loses_nothing_and_charges_nothing(
    server: RunningServer, tmp_path: Path
) -> None:
    rest = Rest(server)
    with start_worker(server, RECORDER, tmp_path):
        ids = rest.submit_many(5000, "record")
        with start_worker(server, RECORDER, tmp_path) as stopping:
            eventually_sync(lambda: "connected" in stopping.log, "it takes its share")
            code = stopping.terminate()
        rest.until_count("default", "succeeded", 5000)
        jobs = [rest.job(job_id) for job_id in ids[::20]]

    assert 0 == code

    assert {1} == set(_ran(tmp_path).values())
    assert {("succeeded", 1)} == {(job["status"], job["attempts"]) for job in jobs}


def test_a_server_that_stops_under_load_loses_nothing(database_url: str, tmp_path: Path) -> None:
    _loses_nothing(database_url, tmp_path, signal.SIGTERM)


def test_a_server_that_is_killed_under_load_loses_nothing(database_url: str, tmp_path: Path) -> None:
    _loses_nothing(database_url, tmp_path, signal.SIGKILL)


def _loses_nothing(database_url: str, tmp_path: Path, number: signal.Signals) -> None:
    """Every submission that was answered is run, through a restart of the only server on the same ports."""
    http_port, grpc_port = free_port(), free_port()
    acknowledged: list[str] = []
    enough = threading.Event()

    def produce(url: str, headers: dict[str, str]) -> None:
        with httpx.Client(base_url=url, headers=headers, timeout=5) as client:
            while not enough.is_set():
                try:
                    reply = client.post("/v1/jobs", json={"type": "record", "payload": {"n": 1}})
                    if reply.status_code == 201:
                        acknowledged.append(reply.json()["id"])
                except httpx.TransportError:
                    time.sleep(0.02)

    ports = {"http_port": http_port, "grpc_port": grpc_port}
    with start_server(database_url, **ports) as first, start_worker(first, RECORDER, tmp_path):  # type: ignore[arg-type]
        producer = threading.Thread(target=produce, args=(first.http_url, first.headers))
        producer.start()
        eventually_sync(lambda: len(acknowledged) > 200, "load is on")
        first.process.send_signal(number)
        code = first.process.wait(30)
        with start_server(database_url, **ports) as again:  # type: ignore[arg-type]
            eventually_sync(lambda: len(acknowledged) > 600, "load goes on", timeout=20)
            enough.set()
            producer.join()
            rest = Rest(again)
            rest.until_count("default", "succeeded", len(acknowledged), timeout=30)
            statuses = {rest.job(job_id)["status"] for job_id in acknowledged[::20]}

    assert {"succeeded"} == statuses
    assert set(acknowledged) <= _ran(tmp_path).keys()
    if number == signal.SIGTERM:
        assert 0 == code
