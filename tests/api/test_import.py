"""NDJSON import: any number of lines in bounded memory, each answered for itself."""

import json
import socket
import threading
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.support.processes import RunningServer

LINES = 20_000
NDJSON = {"Content-Type": "application/x-ndjson"}


def _import(api: httpx.Client, lines: list[bytes]) -> list[dict[str, object]]:
    reply = api.post("/v1/jobs/batch", content=b"\n".join(lines), headers=NDJSON)
    assert 200 == reply.status_code, reply.text
    return [json.loads(line) for line in reply.text.splitlines()]


def _line(queue: str, **fields: object) -> bytes:
    return json.dumps({"type": "t", "payload": {}, "queue": queue, **fields}).encode()


@pytest.mark.slow
def test_twenty_thousand_lines_are_imported_in_bounded_memory(
    shared_server: RunningServer, api: httpx.Client, queue_name: str
) -> None:
    process = psutil.Process(shared_server.process.pid)
    before = process.memory_info().rss

    answers = _import(api, [_line(queue_name, payload={"text": "x" * 1_000}) for _ in range(LINES)])

    assert [True] * LINES == ["id" in answer for answer in answers]
    assert LINES == api.get(f"/v1/queues/{queue_name}").json()["counts"]["pending"]
    assert process.memory_info().rss - before < 80 * 1024 * 1024


def test_lines_of_full_size_never_gather_in_memory(
    shared_server: RunningServer, api: httpx.Client, queue_name: str
) -> None:
    process = psutil.Process(shared_server.process.pid)
    before = process.memory_info().rss

    answers = _import(api, [_line(queue_name, payload={"text": "x" * 1_000_000}) for _ in range(60)])

    assert [True] * 60 == ["id" in answer for answer in answers]
    assert process.memory_info().rss - before < 60 * 1024 * 1024


@pytest.mark.parametrize(
    ("bad", "code", "field"),
    [
        (b"{nope", "malformed_request", "body"),
        (b'{"type":"\xff","payload":{}}', "malformed_request", "body"),
        (b"[" * 100_000, "invalid_request", "body"),
        (b'{"type":"t","payload":{"a":' + b"[" * 90_000 + b"]" * 90_000 + b"}}", "malformed_request", "body"),
        (b'{"type":"t","payload":[]}', "invalid_request", "payload"),
        (b'{"type":"t","payload":{"a":"' + b"x" * 3_000_000 + b'"}}', "payload_too_large", "payload"),
    ],
)
def test_a_bad_line_is_refused_alone(
    api: httpx.Client, queue_name: str, bad: bytes, code: str, field: str | None
) -> None:
    first, refused, last = _import(api, [_line(queue_name), bad, _line(queue_name)])

    error = refused["error"]
    assert isinstance(error, dict)
    assert (2, code, field) == (refused["line"], error["code"], error.get("field"))
    assert ("id" in first, "id" in last) == (True, True)


def test_a_key_used_twice_is_answered_with_the_first_job(api: httpx.Client, queue_name: str) -> None:
    first, second = _import(api, [_line(queue_name, unique_key=queue_name)] * 2)

    assert first["id"] == second["id"]


def test_answers_arrive_while_lines_are_still_sent(shared_server: RunningServer, queue_name: str) -> None:
    parts = urlsplit(shared_server.http_url)
    lines = b"".join(_line(queue_name) + b"\n" for _ in range(500))
    head = (
        f"POST /v1/jobs/batch HTTP/1.1\r\nHost: x\r\nX-API-Key: {shared_server.api_key}\r\n"
        "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        sender = threading.Thread(
            target=connection.sendall, args=(head.encode() + b"%x\r\n%b\r\n" % (len(lines), lines),)
        )
        sender.start()
        answer = b""
        while b'{"line":500,' not in answer:
            answer += connection.recv(65_536)
        sender.join()

    assert b" 200 OK" in answer
