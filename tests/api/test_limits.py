"""What one server takes at a time: connections, request bodies and streams; beyond it, an answer that says so."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub

from tests.support.processes import RunningServer, start_server, start_worker
from tests.support.rest import Rest
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
    with _server(database_url, QUORRA_BODIES_BYTES_MAX=str(1024 * 1024)) as server, _connect(server) as first:
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
