"""What HTTP itself must bear: broken heads, slow clients, bodies nobody asked for, and a stop under idle clients."""

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import grpc
import httpx
import psutil
import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub

from tests.support.processes import API_KEY, BIN, RunningServer, start_process, start_server
from tests.support.services import free_port
from tests.support.waiting import eventually_sync

BODY = b'{"type":"t","payload":{}}'
HEAD_SECONDS_MAX = 5.0


def _address(server: RunningServer) -> tuple[str, int]:
    parts = urlsplit(server.http_url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def _exchange(server: RunningServer, request: bytes, *, hang_up: bool = False) -> list[int]:
    """Send bytes, perhaps close the sending side, and return the status of each response until the server closes."""
    with socket.create_connection(_address(server), timeout=10) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while chunk := connection.recv(65_536):
                answer += chunk
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


def _post(server: RunningServer, *headers: bytes, body: bytes = BODY) -> bytes:
    lines = [
        b"POST /v1/jobs HTTP/1.1",
        b"Host: x",
        b"Connection: close",
        b"X-API-Key: " + server.api_key.encode(),
        *headers,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Length : 25",
        "Content-Length: ٢٥".encode(),
        b"Content-Length: -5",
        b"Content-Length: 2_5",
        b"Content-Length: 25\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: gzip",
        b"Content-Length: 25\r\n folded: x",
        b"Content-Length: 25\r\nX-Nul: a\x00b",
        b"Content-Length: 25\r\nX-Big: " + b"x" * 20_000,
        b"Content-Length: 25\r\nExpect: miracles",
        b"Content-Length: 25\r\nno colon",
    ],
)
def test_a_head_that_others_could_read_differently_is_400_and_ends_the_connection(
    shared_server: RunningServer, header: bytes
) -> None:
    assert [400] == _exchange(shared_server, _post(shared_server, header))


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /healthz\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_not_http_is_400(shared_server: RunningServer, request_bytes: bytes) -> None:
    assert [400] == _exchange(shared_server, request_bytes)


def test_a_chunked_body_is_taken_and_a_broken_one_refused(shared_server: RunningServer) -> None:
    chunked = b"Transfer-Encoding: chunked"
    whole = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)

    assert [201] == _exchange(shared_server, _post(shared_server, chunked, body=whole))
    assert [400] == _exchange(shared_server, _post(shared_server, chunked, body=b"zz\r\n"))


def test_a_body_that_is_cut_short_stores_nothing(shared_server: RunningServer, api: httpx.Client) -> None:
    before = api.get("/v1/queues").json()

    statuses = _exchange(shared_server, _post(shared_server, b"Content-Length: 100"), hang_up=True)

    assert [status for status in statuses if status < 400] == []
    assert before == api.get("/v1/queues").json()


def test_a_key_that_is_not_text_is_401(shared_server: RunningServer) -> None:
    head = b"GET /v1/queues HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: \xff\xfe\r\n\r\n"

    assert [401] == _exchange(shared_server, head)


@pytest.mark.slow
def test_a_head_that_drips_is_cut_after_five_seconds(shared_server: RunningServer) -> None:
    began = time.monotonic()
    with socket.create_connection(_address(shared_server), timeout=0.2) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        answer = b""
        while time.monotonic() - began < 3 * HEAD_SECONDS_MAX and b" 400 " not in answer:
            with contextlib.suppress(TimeoutError):
                answer += connection.recv(4_096)
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"X-Drip: 1\r\n")

    assert b" 400 " in answer
    assert HEAD_SECONDS_MAX - 1 < time.monotonic() - began < HEAD_SECONDS_MAX + 2


@pytest.mark.parametrize("path", ["/v1/queues", "/", "/v1/nothing", "/healthz"])
def test_a_body_that_nobody_asked_for_never_fills_the_memory(shared_server: RunningServer, path: str) -> None:
    process = psutil.Process(shared_server.process.pid)
    before = process.memory_info().rss
    size = 200 * 1024 * 1024
    sent = 0
    with socket.create_connection(_address(shared_server), timeout=10) as connection, contextlib.suppress(OSError):
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
        while sent < size:
            sent += connection.send(b"x" * 65_536)

    assert process.memory_info().rss - before < 50 * 1024 * 1024
    assert sent < size


def test_head_answers_like_get_without_a_body(api: httpx.Client) -> None:
    reply = api.head("/v1/queues")

    assert (200, b"") == (reply.status_code, reply.content)


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "TRACE", "BREW"])
def test_a_wrong_method_is_405_and_names_the_right_ones(api: httpx.Client, method: str) -> None:
    reply = api.request(method, "/v1/jobs")

    assert (405, "method_not_allowed") == (reply.status_code, reply.json()["code"])
    assert "GET, HEAD, POST" == reply.headers["allow"]


@pytest.mark.parametrize(
    ("header", "value", "field"),
    [
        ("Content-Type", "text/plain", "Content-Type"),
        ("Content-Type", "application/json; charset=latin-1", "Content-Type"),
        ("Content-Encoding", "gzip", "Content-Encoding"),
        ("Idempotency-Key", "k" * 300, "Idempotency-Key"),
    ],
)
def test_headers_that_cannot_be_honoured_are_refused_by_name(
    api: httpx.Client, header: str, value: str, field: str
) -> None:
    headers = {"Content-Type": "application/json", header: value}

    reply = api.post("/v1/jobs", content=BODY, headers=headers)

    assert (422, field) == (reply.status_code, reply.json()["field"])


def test_a_stop_answers_whoever_waits_for_a_job_or_for_work(database_url: str) -> None:
    """Not at the end of the grace, which would cut them off."""
    with start_server(database_url) as server, ThreadPoolExecutor() as threads:
        job = httpx.post(f"{server.http_url}/v1/jobs", content=BODY, headers=server.headers).json()
        with httpx.Client(base_url=server.http_url, headers=server.headers, timeout=60) as client:
            waiting = threads.submit(client.get, f"/v1/jobs/{job['id']}?wait=60s")
            with grpc.insecure_channel(server.grpc_address) as channel:
                request = pb.LeaseRequest(worker_id="w", queue="another", wait_seconds=30)
                call = WorkerServiceStub(channel).LeaseJobs(request, metadata=server.metadata)
                leased = threads.submit(list, call)
                eventually_sync(lambda: _both_wait(server), "both wait")

                code = server.terminate()

            assert (200, "pending") == (waiting.result().status_code, waiting.result().json()["status"])
            assert [] == leased.result()
    assert 0 == code


def _both_wait(server: RunningServer) -> bool:
    """Say whether a worker has asked for work, and a connection beside this one is open."""
    with httpx.Client(base_url=server.http_url, headers=server.headers) as client:
        workers = client.get("/v1/workers").json()["workers"]
        return len(workers) == 1 and "quorra_http_connections 2.0" in client.get("/metrics").text


def test_health_and_metrics_can_be_closed_and_live_stays_open(database_url: str) -> None:
    paths = ("/livez", "/readyz", "/healthz", "/metrics")
    with _with_closed_health(database_url) as server, httpx.Client(base_url=server.http_url) as client:
        without = [client.get(path).status_code for path in paths]
        with_key = [client.get(path, headers=server.headers).status_code for path in paths]
        described = client.get("/openapi.json").json()["paths"]

    assert [200, 401, 401, 401] == without
    assert [200, 200, 200, 200] == with_key
    assert [False, True, True, True] == ["401" in described[path]["get"]["responses"] for path in paths]


@contextlib.contextmanager
def _with_closed_health(database_url: str) -> Iterator[RunningServer]:
    """Start a server that asks for the key also where others are open; that it is ready is asked with the key."""
    http, grpc_address = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    settings = {
        "QUORRA_ENV": "test",
        "DATABASE_URL": database_url,
        "QUORRA_API_KEY": API_KEY,
        "QUORRA_HTTP_ADDR": http,
        "QUORRA_GRPC_ADDR": grpc_address,
        "QUORRA_METRICS_OPEN": "off",
        "QUORRA_HEALTH_OPEN": "off",
    }
    with start_process([str(BIN / "quorra-server")], settings) as running:
        server = RunningServer(running.process, running.log_path, f"http://{http}", grpc_address)
        eventually_sync(lambda: _is_ready(server), "the server is ready", timeout=60)
        yield server


def _is_ready(server: RunningServer) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{server.http_url}/readyz", headers=server.headers).status_code == 200
    return False


def test_a_stop_does_not_wait_for_idle_clients(database_url: str) -> None:
    with start_server(database_url) as server, httpx.Client(base_url=server.http_url) as idle:
        assert 200 == idle.get("/healthz").status_code

        began = time.monotonic()
        code = server.terminate()

        assert 0 == code
        assert time.monotonic() - began < 5


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_curl_lines_of_the_readme_work_as_typed(shared_server: RunningServer, queue_name: str) -> None:
    def curl(*arguments: str) -> tuple[int, str]:
        command = ["curl", "-sS", "-w", "\n%{http_code}", "-H", f"X-API-Key: {shared_server.api_key}", *arguments]
        output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
        body, _, status = output.rpartition("\n")
        return int(status), body

    base = shared_server.http_url
    job = {"type": "email_send", "queue": queue_name, "payload": {"to": "ann@example.com"}, "delay_seconds": 60}
    created, body = curl("-X", "POST", f"{base}/v1/jobs", "-H", "Content-Type: application/json", "-d", json.dumps(job))
    found, read = curl(f"{base}/v1/jobs/{json.loads(body)['id']}")
    as_form, _ = curl(f"{base}/v1/jobs", "-d", json.dumps(job))
    listed, queues = curl(f"{base}/v1/queues")
    measured, metrics = curl(f"{base}/metrics")

    assert [201, 200, 201, 200, 200] == [created, found, as_form, listed, measured]
    assert "pending" == json.loads(read)["status"]
    assert {"queue": queue_name, "status": "pending", "count": 2} in json.loads(queues)["queues"]
    assert f'quorra_job_queue_length{{queue="{queue_name}",status="pending"}} 2.0' in metrics
