"""The lane of a plain `POST /v1/jobs`: quicker than Sanic's way, and never another answer."""

import asyncio
import re
import socket
from urllib.parse import urlsplit

import httpx
import pytest
from quorra_server.transports.rest.lane import Lane, PlainHead
from quorra_server.transports.rest.routes import Memory

from tests.support.processes import RunningServer

# Asks for nothing, but is not for the lane: the request takes Sanic's way.
SANICS_WAY = b"TE: trailers\r\n"
GOOD = b'{"type":"t","queue":"%b","payload":{"a":1.50}}'


def _request(server: RunningServer, body: bytes, *headers: bytes, key: str | None = None) -> bytes:
    given = b"".join(header + b"\r\n" for header in headers)
    return (
        b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nX-API-Key: %b\r\nContent-Length: %d\r\n%b\r\n"
        % ((server.api_key if key is None else key).encode(), len(body), given)
    ) + body


def _connect(server: RunningServer) -> socket.socket:
    parts = urlsplit(server.http_url)
    return socket.create_connection((parts.hostname, parts.port), timeout=10)


def _answer(connection: socket.socket) -> bytes:
    """Read one whole answer, head and body."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += _some(connection)
    head = answer.partition(b"\r\n\r\n")[0]
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None, head
    size = len(head) + 4 + int(length[1])
    while len(answer) < size:
        answer += _some(connection)
    assert len(answer) == size, "an answer more than was asked for"
    return answer


def _some(connection: socket.socket) -> bytes:
    received = connection.recv(65_536)
    assert received, "the server closed the connection"
    return received


def _exchange(server: RunningServer, *parts: bytes) -> bytes:
    with _connect(server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            connection.sendall(part)
        return _answer(connection)


def _without_what_differs(answer: bytes) -> bytes:
    # Sanic adds an empty Alt-Svc, which says nothing.
    answer = answer.replace(b"alt-svc: \r\n", b"")
    return re.sub(rb'"(id|run_at)":"[^"]+"', rb'"\1":""', answer)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (GOOD, (), 201),
        (GOOD, (b"Content-Type: application/json; charset=utf-8", b"User-Agent: x"), 201),
        (GOOD, (b"Content-Type: text/xml",), 422),
        (GOOD, (b"Content-Type: text/caf\xe9",), 422),
        (GOOD, (b"Content-Encoding: gzip",), 422),
        (GOOD, (b"X-Twice: 1", b"X-Twice: 2"), 201),
        (b"", (), 422),
        (b"{nope", (), 400),
        (b'{"type":"t","payload":{"a":NaN}}', (), 400),
        (b'{"type":"t","payload":{"a":"\\u0000"}}', (), 422),
        (b'{"type":"t","payload":{"a":"\xff"}}', (), 422),
        (b'{"type":"t","payload":{},"prio":1}', (), 422),
        (b'{"type":"","payload":[],"priority":3000000000}', (), 422),
        (b'{"type":"t","payload":' + b'{"a":' * 100 + b"1" + b"}" * 101, (), 422),
    ],
)
def test_the_lane_answers_byte_for_byte_as_sanics_way(
    shared_server: RunningServer, queue_name: str, body: bytes, headers: tuple[bytes, ...], status: int
) -> None:
    sent = body.replace(b"%b", queue_name.encode())

    quick = _exchange(shared_server, _request(shared_server, sent, *headers))
    plain = _exchange(shared_server, _request(shared_server, sent, *headers, SANICS_WAY.strip()))

    assert quick.startswith(b"HTTP/1.1 %d " % status)
    assert _without_what_differs(plain) == _without_what_differs(quick)


def test_a_wrong_key_is_refused_as_on_sanics_way(shared_server: RunningServer, queue_name: str) -> None:
    body = GOOD % queue_name.encode()

    quick = _exchange(shared_server, _request(shared_server, body, key="wrong"))
    plain = _exchange(shared_server, _request(shared_server, body, SANICS_WAY.strip(), key="wrong"))

    assert quick.startswith(b"HTTP/1.1 401 ")
    assert _without_what_differs(plain) == _without_what_differs(quick)


def test_a_repeated_idempotency_key_is_answered_with_the_first_job_on_both_ways(
    shared_server: RunningServer, queue_name: str
) -> None:
    body = GOOD % queue_name.encode()
    key = b"Idempotency-Key: " + queue_name.encode()

    first = _exchange(shared_server, _request(shared_server, body, key))
    quick = _exchange(shared_server, _request(shared_server, body, key))
    plain = _exchange(shared_server, _request(shared_server, body, key, SANICS_WAY.strip()))

    assert first.startswith(b"HTTP/1.1 201 ")
    assert quick.startswith(b"HTTP/1.1 200 ")
    assert _without_what_differs(plain) == _without_what_differs(quick)
    assert re.findall(rb'"id":"[^"]+"', first) == re.findall(rb'"id":"[^"]+"', quick)


def test_a_head_is_read_anew_for_each_request_of_a_connection(shared_server: RunningServer, queue_name: str) -> None:
    body = GOOD % queue_name.encode()
    longer = body[:-1] + b',"priority":7}'
    statuses = []

    with _connect(shared_server) as connection:
        for request in (
            _request(shared_server, body),
            _request(shared_server, longer),
            _request(shared_server, body, key="wrong"),
            _request(shared_server, body, SANICS_WAY.strip()),
            _request(shared_server, body),
        ):
            connection.sendall(request)
            statuses.append(_answer(connection)[9:12])

    assert [b"201", b"201", b"401", b"201", b"201"] == statuses


def test_a_body_may_come_in_packets_of_its_own(
    shared_server: RunningServer, api: httpx.Client, queue_name: str
) -> None:
    request = _request(shared_server, GOOD % queue_name.encode())

    answer = _exchange(shared_server, request[:-30], request[-30:-10], request[-10:])

    assert answer.startswith(b"HTTP/1.1 201 ")
    assert 1 == api.get(f"/v1/queues/{queue_name}").json()["counts"]["pending"]


def test_requests_that_were_sent_ahead_are_answered_in_order(
    shared_server: RunningServer, api: httpx.Client, queue_name: str
) -> None:
    good = _request(shared_server, GOOD % queue_name.encode())
    bad = _request(shared_server, b"{nope")
    received = b""

    with _connect(shared_server) as connection:
        connection.sendall(good + bad + good)
        while received.count(b"HTTP/1.1 ") < 3 or not received.endswith(b"}"):
            received += _some(connection)

    assert [b"201", b"400", b"201"] == re.findall(rb"HTTP/1.1 (\d+)", received)
    assert 2 == api.get(f"/v1/queues/{queue_name}").json()["counts"]["pending"]


def test_the_body_of_a_refused_request_is_never_read_as_a_request(
    shared_server: RunningServer, api: httpx.Client, queue_name: str
) -> None:
    """It would be a job smuggled in behind the back of whoever checked the first request."""
    smuggled = _request(shared_server, GOOD % queue_name.encode())
    refused = _request(shared_server, smuggled, SANICS_WAY.strip(), key="wrong")

    with _connect(shared_server) as connection:
        connection.sendall(refused[: -len(smuggled)])
        assert _answer(connection).startswith(b"HTTP/1.1 401 ")
        connection.sendall(smuggled)
        connection.sendall(_request(shared_server, b"{nope"))
        assert _answer(connection).startswith(b"HTTP/1.1 400 ")

    assert [] == api.get("/v1/jobs", params={"queue": queue_name}).json()["jobs"]


def test_each_new_head_of_a_connection_needs_a_key_of_its_own(shared_server: RunningServer, queue_name: str) -> None:
    body = GOOD % queue_name.encode()
    known, unknown = _request(shared_server, body), _request(shared_server, body, key="wrong")

    with _connect(shared_server) as connection:
        statuses = []
        for request in (unknown, unknown, known, known, unknown, known):
            connection.sendall(request)
            statuses.append(_answer(connection)[9:12])

    assert [b"401", b"401", b"201", b"201", b"401", b"201"] == statuses


def test_bodies_of_the_lane_count_towards_the_memory_of_all_bodies() -> None:
    memory = Memory(100)
    lane = Lane(None, lambda _: "nobody", memory)  # type: ignore[arg-type]
    head = PlainHead(b"", {}, 0)

    answer = asyncio.run(lane.answer(head, b" " * 101))

    assert b"HTTP/1.1 429 " in answer
    assert b"QUORRA_BODIES_BYTES_MAX" in answer
    # And what was refused for another reason gives its room back.
    assert b"HTTP/1.1 400 " in asyncio.run(lane.answer(head, b"x" * 100))
    assert b"HTTP/1.1 400 " in asyncio.run(lane.answer(head, b"x" * 100))
