"""PostgreSQL goes away and comes back: honest answers meanwhile, nothing acknowledged lost, normal again by itself."""

import asyncio
import re
import time
from pathlib import Path

import asyncpg
import httpx
from quorra_server import embedded
from quorra_server.embedded import EmbeddedPostgres
from quorra_server.storage.migrate import migrate

from tests.support.processes import NO_TLS, RunningServer, start_server, start_worker
from tests.support.rest import Rest
from tests.support.waiting import eventually_sync

HELLO = """
    from quorra_worker_sdk import Worker

    worker = Worker()

    @worker.job("hello")
    async def hello(n: int = 0) -> int:
        return n
"""


def test_while_postgresql_is_away_the_answer_is_503_and_afterwards_all_is_well(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    asyncio.run(migrate(postgres.dsn))
    with start_server(postgres.dsn) as server, start_worker(server, HELLO, tmp_path):
        rest = Rest(server)
        before = rest.submit("hello", {"n": 1})
        rest.ended(before)
        acknowledged = rest.submit("hello", {"n": 2}, delay_seconds=1)

        postgres.stop()
        refused = httpx.post(
            f"{server.http_url}/v1/jobs", json={"type": "hello", "payload": {}}, headers=server.headers, timeout=20
        )
        ready = httpx.get(f"{server.http_url}/readyz", timeout=10)
        live = httpx.get(f"{server.http_url}/livez", timeout=10)
        with embedded.start(postgres.data_dir.parent, port=postgres.port):
            back_at = time.monotonic()
            eventually_sync(lambda: _is_ready(server), "it is ready again")
            after = rest.submit("hello", {"n": 3})
            seconds = time.monotonic() - back_at
            results = [rest.ended(job_id)["result"] for job_id in (acknowledged, after)]
            kept = rest.job(before)["result"]

    assert (503, "application/problem+json") == (refused.status_code, refused.headers["content-type"])
    assert "Retry-After" in refused.headers
    assert (503, 200) == (ready.status_code, live.status_code)
    assert seconds < 2
    assert [2, 3] == results
    assert 1 == kept


def _is_ready(server: RunningServer) -> bool:
    return httpx.get(f"{server.http_url}/readyz", timeout=5, verify=NO_TLS).is_success


def test_while_postgresql_is_away_the_log_has_about_a_line_a_second(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    asyncio.run(migrate(postgres.dsn))
    with start_server(postgres.dsn) as server, start_worker(server, HELLO, tmp_path):
        rest = Rest(server)
        rest.ended(rest.submit("hello"))
        postgres.stop()
        began_at, lines_before = time.monotonic(), len(server.log.splitlines())
        replies = []
        while time.monotonic() - began_at < 4:
            replies.append(rest.http.post("/v1/jobs", json={"type": "hello", "payload": {}}))
        seconds, lines = time.monotonic() - began_at, server.log.splitlines()[lines_before:]

    assert {503} == {reply.status_code for reply in replies}
    assert all("Retry-After" in reply.headers for reply in replies)
    # What was under way when it went says so once, too.
    assert len(lines) <= 2 * seconds + 6, "\n".join(lines)


def test_a_mistake_of_ours_is_an_incident_with_an_id_and_the_server_lives_on(
    server: RunningServer, database_url: str
) -> None:
    rest = Rest(server)

    async def rename(before: str, after: str) -> None:
        connection = await asyncpg.connect(database_url)
        await connection.execute(f"ALTER TABLE quorra.jobs RENAME COLUMN {before} TO {after}")
        await connection.close()

    asyncio.run(rename("unique_key", "renamed"))
    broken = rest.http.post("/v1/jobs", json={"type": "hello", "payload": {}})
    asyncio.run(rename("renamed", "unique_key"))
    mended = rest.http.post("/v1/jobs", json={"type": "hello", "payload": {}})

    incident = re.search(r"report incident ([0-9a-f]{12})", broken.json()["detail"])
    assert (500, "internal") == (broken.status_code, broken.json()["code"])
    assert incident is not None
    assert incident[1] in server.log
    assert 201 == mended.status_code
