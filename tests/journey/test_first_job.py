"""The first thing that a newcomer does: submit a job, run it, look at it."""

from pathlib import Path

import httpx

from tests.support.processes import RunningServer, start_worker

HELLO = """
    from quorra_worker_sdk import Worker

    worker = Worker()

    @worker.job("hello")
    async def hello(name: str) -> str:
        return f"hello {name}"
"""


def test_a_submitted_job_is_run_and_its_result_can_be_read(server: RunningServer, tmp_path: Path) -> None:
    with (
        start_worker(server, HELLO, tmp_path),
        httpx.Client(base_url=server.http_url, headers=server.headers) as client,
    ):
        submitted = client.post("/v1/jobs", json={"type": "hello", "payload": {"name": "world"}})
        done = client.get(f"/v1/jobs/{submitted.json()['id']}?wait=20s", timeout=30).json()

    assert submitted.status_code == 201
    assert {"id", "status", "run_at"} <= submitted.json().keys()
    assert (done["status"], done["attempts"], done["result"]) == ("succeeded", 1, "hello world")
