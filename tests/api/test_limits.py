"""What one server takes at a time: connections, request bodies and streams; beyond it, an answer that says so."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import grpc
import httpx
import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub

from tests.conftest import on_database
from tests.support.processes import RunningServer, start_server, start_worker
from tests.support.rest import Rest
from tests.support.services import Service
from tests.support.waiting import eventually, eventually_sync

PING = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


async def _kind_of_next(call: Any) -> str | None:
    message: pb.ServerMessage = await call.read()
    return message.WhichOneof("message")


@contextlib.contextmanager
def _server(database_url: str, **settings: str) -> Iterator[RunningServer]:
    with start_server(database_url, settings) as server:
        yield server


def _connect(server: RunningServer, source: str = "127.0.0.1") -> socket.socket:
    parts = urlsplit(server.http_url)
    assert parts.hostname is not None
    assert parts.port is not None
    return socket.create_connection((parts.hostname, parts.port), timeout=10, source_address=(source, 0))


def _answer(connection: socket.socket) -> tuple[int, dict[str, object]]:
    connection.sendall(PING)
    answer = b""
    while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
        answer += connection.recv(65_536)
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def _closes_for(server: RunningServer, connection: socket.socket) -> None:
    connection.close()
    eventually_sync(lambda: httpx.get(f"{server.http_url}/livez").status_code == 200, "there is room again")


@pytest.mark.parametrize(
    ("setting", "sources"),
    [
        ("QUORRA_HTTP_CONNECTIONS_MAX", ["127.0.0.2", "127.0.0.3", "127.0.0.4"]),
        ("QUORRA_HTTP_CONNECTIONS_PER_ADDRESS_MAX", ["127.0.0.1"] * 3),
    ],
)
def test_a_connection_too_many_is_told_which_limit_it_met_and_the_others_live_on(
    database_url: str, setting: str, sources: list[str]
) -> None:
    with _server(database_url, **{setting: "3"}) as server, contextlib.ExitStack() as stack:
        open_ones = [stack.enter_context(contextlib.closing(_connect(server, source))) for source in sources]
        assert [200] * 3 == [_answer(connection)[0] for connection in open_ones]

        with contextlib.closing(_connect(server)) as one_more:
            status, problem = _answer(one_more)
            assert b"" == one_more.recv(1), "it is closed"

        assert (429, "overloaded") == (status, problem["code"])
        assert setting in str(problem["detail"])
        assert 200 == _answer(open_ones[0])[0]
        _closes_for(server, open_ones.pop())


def test_one_address_does_not_take_the_room_of_others(database_url: str) -> None:
    with (
        _server(database_url, QUORRA_HTTP_CONNECTIONS_PER_ADDRESS_MAX="1") as server,
        contextlib.closing(_connect(server)) as first,
        contextlib.closing(_connect(server, "127.0.0.2")) as elsewhere,
    ):
        assert [200, 200] == [_answer(first)[0], _answer(elsewhere)[0]]


def test_bodies_beyond_the_servers_memory_are_429_and_name_the_limit(database_url: str) -> None:
    half = b'{"jobs":[' + b" " * 600_000
    mebibyte = str(1024 * 1024)
    with (
        _server(database_url, QUORRA_BODIES_BYTES_MAX=mebibyte, QUORRA_BATCH_BYTES_MAX=mebibyte) as server,
        _connect(server) as first,
    ):
        first.sendall(
            b"POST /v1/jobs/batch HTTP/1.1\r\nHost: x\r\nX-API-Key: %b\r\nContent-Length: 700000\r\n\r\n%b"
            % (server.api_key.encode(), half)
        )

        def post() -> httpx.Response:
            return httpx.post(f"{server.http_url}/v1/jobs/batch", content=half + b"]}", headers=server.headers)

        eventually_sync(lambda: post().status_code == 429, "both do not fit")
        refused = post()
        assert "QUORRA_BODIES_BYTES_MAX" in refused.json()["detail"]
        assert "1" == refused.headers["Retry-After"]

        first.close()
        eventually_sync(lambda: post().is_success, "the room is given back")


async def test_a_key_has_so_many_streams_and_no_more(database_url: str) -> None:
    hello = pb.WorkerMessage(hello=pb.Hello(worker_id="w", boot_id="b"))
    with _server(database_url, QUORRA_STREAMS_PER_KEY_MAX="2") as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            stub = WorkerServiceStub(channel)
            calls = [stub.Work(metadata=server.metadata) for _ in range(2)]
            for call in calls:
                await call.write(hello)
                assert await _kind_of_next(call) == "welcome"

            with pytest.raises(grpc.aio.AioRpcError) as refused:
                [job async for job in stub.LeaseJobs(pb.LeaseRequest(worker_id="w"), metadata=server.metadata)]
            calls.pop().cancel()

            async def leases() -> bool:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    return [
                        job async for job in stub.LeaseJobs(pb.LeaseRequest(worker_id="w"), metadata=server.metadata)
                    ] == []
                return False

            await eventually(leases, "a stream that closed makes room")
            calls.pop().cancel()

    assert grpc.StatusCode.RESOURCE_EXHAUSTED is refused.value.code()
    assert "QUORRA_STREAMS_PER_KEY_MAX" in (refused.value.details() or "")


async def test_an_old_stream_is_asked_to_connect_anew_and_gets_no_more_jobs(database_url: str) -> None:
    with _server(database_url, QUORRA_GRPC_CONNECTION_AGE="1s") as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            call = WorkerServiceStub(channel).Work(metadata=server.metadata)
            await call.write(pb.WorkerMessage(hello=pb.Hello(worker_id="w", boot_id="b")))
            await call.write(pb.WorkerMessage(credit=pb.Credit(granted_total=10)))
            async with asyncio.timeout(10):
                while await _kind_of_next(call) != "notice":
                    pass
            job_id = Rest(server).submit("t")

            assert "pending" == Rest(server).job(job_id)["status"]
            call.cancel()


def test_a_worker_whose_streams_grow_old_loses_and_repeats_nothing(database_url: str, tmp_path: Path) -> None:
    module = """
        import asyncio
        from quorra_worker_sdk import Worker

        worker = Worker(slots=5)

        @worker.job("t")
        async def t(n: int = 0) -> int:
            await asyncio.sleep(0.05)
            return n
    """
    with _server(database_url, QUORRA_GRPC_CONNECTION_AGE="1s") as server:
        rest = Rest(server)
        ids = rest.submit_many(300, "t")
        with start_worker(server, module, tmp_path) as worker:
            jobs = [rest.ended(job_id) for job_id in ids]
            connections = worker.log.count("connected to")

        assert connections >= 3
        assert {("succeeded", 1)} == {(job["status"], job["attempts"]) for job in jobs}
        # A lease that was under way for the old stream is given back at once; none has to run out.
        again = [job["id"] for job in jobs if job["deliveries"] > 1]
        assert all(["released", "succeeded"] == rest.history(job_id) for job_id in again)


SETTINGS = {
    "QUORRA_PAYLOAD_BYTES_MAX": "2048",
    "QUORRA_RESULT_BYTES_MAX": "1024",
    "QUORRA_ERROR_BYTES_MAX": "256",
    "QUORRA_LOG_LINE_BYTES_MAX": "64",
    "QUORRA_LOG_LINES_MAX": "2",
    "QUORRA_BATCH_JOBS_MAX": "3",
    "QUORRA_BATCH_BYTES_MAX": "4096",
    "QUORRA_NAME_CHARACTERS_MAX": "20",
    "QUORRA_JSON_DEPTH_MAX": "4",
    "QUORRA_TAGS_MAX": "1",
    "QUORRA_TAG_CHARACTERS_MAX": "5",
    "QUORRA_RETRIES_MAX": "5",
    "QUORRA_DELAY_SECONDS_MAX": "60",
    "QUORRA_TIMEOUT_SECONDS_MAX": "60",
    "QUORRA_LEASE_SECONDS_MIN": "10",
    "QUORRA_LEASE_SECONDS_MAX": "40",
    "QUORRA_LEASE_JOBS_MAX": "7",
    "QUORRA_PAGE_JOBS_MAX": "50",
    "QUORRA_HEAD_BYTES_MAX": "2048",
}


@pytest.fixture(scope="module")
def narrow(postgres_for_all: Service, template: str) -> Iterator[RunningServer]:
    """A server each of whose limits was set."""
    url = on_database(postgres_for_all.url, "quorra_narrow")
    asyncio.run(_on_postgres(postgres_for_all.url, "DROP DATABASE IF EXISTS quorra_narrow WITH (FORCE)"))
    asyncio.run(_on_postgres(postgres_for_all.url, f"CREATE DATABASE quorra_narrow TEMPLATE {template}"))
    with start_server(url, SETTINGS) as server:
        yield server


async def _on_postgres(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("setting", "job"),
    [
        ("QUORRA_PAYLOAD_BYTES_MAX", {"payload": {"s": "x" * 2_100}}),
        ("QUORRA_NAME_CHARACTERS_MAX", {"type": "t" * 21}),
        ("QUORRA_NAME_CHARACTERS_MAX", {"queue": "q" * 21}),
        ("QUORRA_JSON_DEPTH_MAX", {"payload": {"a": {"b": {"c": {"d": {}}}}}}),
        ("QUORRA_TAGS_MAX", {"tags": ["a", "b"]}),
        ("QUORRA_TAG_CHARACTERS_MAX", {"tags": ["abcdef"]}),
        ("QUORRA_RETRIES_MAX", {"max_retries": 6}),
        ("QUORRA_DELAY_SECONDS_MAX", {"delay_seconds": 61}),
        ("QUORRA_TIMEOUT_SECONDS_MAX", {"timeout_seconds": 61}),
        ("QUORRA_DELAY_SECONDS_MAX", {"run_at": "2999-01-01T00:00:00Z"}),
    ],
)
def test_a_job_over_a_limit_is_told_which_setting_it_met(
    narrow: RunningServer, setting: str, job: dict[str, object]
) -> None:
    reply = httpx.post(f"{narrow.http_url}/v1/jobs", json={"type": "t", "payload": {}, **job}, headers=narrow.headers)

    assert reply.status_code in (413, 422)
    assert setting in reply.json()["detail"]


@pytest.mark.parametrize(
    ("setting", "batch"),
    [
        ("QUORRA_BATCH_JOBS_MAX", {"jobs": [{"type": "t", "payload": {}}] * 4}),
        ("QUORRA_BATCH_BYTES_MAX", {"jobs": [{"type": "t", "payload": {"s": "x" * 2_000}}] * 3}),
    ],
)
def test_a_batch_over_a_limit_is_told_which_setting_it_met(
    narrow: RunningServer, setting: str, batch: dict[str, object]
) -> None:
    reply = httpx.post(f"{narrow.http_url}/v1/jobs/batch", json=batch, headers=narrow.headers)

    assert 413 == reply.status_code
    assert setting in reply.json()["detail"]


def test_a_page_and_a_head_over_their_limits_are_refused(narrow: RunningServer) -> None:
    page = httpx.get(f"{narrow.http_url}/v1/jobs?limit=51", headers=narrow.headers)
    head = httpx.get(f"{narrow.http_url}/livez", headers={"X-Long": "x" * 3_000})

    assert "QUORRA_PAGE_JOBS_MAX" in page.json()["detail"]
    assert 400 <= head.status_code < 500
    assert 200 == httpx.get(f"{narrow.http_url}/livez", headers={"X-Long": "x" * 1_000}).status_code


@pytest.mark.parametrize(
    ("setting", "request_"),
    [
        ("QUORRA_LEASE_JOBS_MAX", pb.LeaseRequest(worker_id="w", max_jobs=8)),
        ("QUORRA_LEASE_SECONDS_MIN", pb.LeaseRequest(worker_id="w", lease_ttl_seconds=9)),
        ("QUORRA_LEASE_SECONDS_MAX", pb.LeaseRequest(worker_id="w", lease_ttl_seconds=41)),
        ("QUORRA_NAME_CHARACTERS_MAX", pb.LeaseRequest(worker_id="w" * 21)),
    ],
)
def test_a_lease_over_a_limit_is_told_which_setting_it_met(
    narrow: RunningServer, setting: str, request_: pb.LeaseRequest
) -> None:
    with grpc.insecure_channel(narrow.grpc_address) as channel, pytest.raises(grpc.RpcError) as refused:
        list(WorkerServiceStub(channel).LeaseJobs(request_, metadata=narrow.metadata))

    error: Any = refused.value
    assert grpc.StatusCode.INVALID_ARGUMENT is error.code()
    assert setting in error.details()


@pytest.mark.parametrize(("wished", "granted"), [(1, 10), (20, 20), (3_600, 40)])
def test_a_stream_is_told_what_became_of_its_wishes(narrow: RunningServer, wished: int, granted: int) -> None:
    hello = pb.WorkerMessage(hello=pb.Hello(worker_id="w", boot_id="b", lease_ttl_seconds=wished))
    with grpc.insecure_channel(narrow.grpc_address) as channel:
        welcome = next(iter(WorkerServiceStub(channel).Work(iter([hello]), metadata=narrow.metadata))).welcome

    assert (granted, 1024) == (welcome.lease_ttl_seconds, welcome.result_bytes_max)
    assert (wished == granted) == (not welcome.adjusted)
    assert all("QUORRA_LEASE_SECONDS_" in sentence for sentence in welcome.adjusted)


def test_what_handlers_say_is_kept_up_to_the_limits(narrow: RunningServer, tmp_path: Path) -> None:
    module = """
        from quorra_worker_sdk import Context, Worker

        worker = Worker(slots=2)

        @worker.job("fails")
        async def fails(ctx: Context) -> None:
            for number in range(3):
                ctx.log_line(f"{number} {'é' * 100}")
            raise ValueError("ü" * 500)

        @worker.job("says much")
        async def says_much(size: int) -> str:
            return "x" * size
    """
    rest = Rest(narrow)
    with start_worker(narrow, module, tmp_path):
        failed = rest.ended(rest.submit("fails", max_retries=0))
        fits = rest.ended(rest.submit("says much", {"size": 1_000}))
        too_much = rest.ended(rest.submit("says much", {"size": 1_100}))
    lines = httpx.get(f"{narrow.http_url}/v1/jobs/{failed['id']}/logs", headers=narrow.headers).json()["lines"]

    assert 250 < len(failed["last_error"].encode()) <= 256
    assert ["0", "1"] == [line["message"][0] for line in lines]
    assert all(60 < len(line["message"].encode()) <= 64 for line in lines)
    assert ("succeeded", "dead") == (fits["status"], too_much["status"])
    assert "at most 1,024" in too_much["last_error"]
