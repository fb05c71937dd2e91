"""NDJSON import: any number of lines in bounded memory, each answered for itself."""

import json
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.support.processes import RunningServer, start_server
from tests.support.waiting import eventually_sync

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


class _Import:
    """An import whose body never ends: what is sent in it, and what has come back."""

    def __init__(self, server: RunningServer) -> None:
        parts = urlsplit(server.http_url)
        self._connection = socket.create_connection((parts.hostname, parts.port), timeout=10)
        self._connection.sendall(
            f"POST /v1/jobs/batch HTTP/1.1\r\nHost: x\r\nX-API-Key: {server.api_key}\r\n"
            "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        self.answer = b""

    def __enter__(self) -> "_Import":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def send(self, data: bytes) -> None:
        """Send a part of the body."""
        self._connection.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def read_up_to(self, text: bytes) -> None:
        """Read until this has come back."""
        while text not in self.answer:
            received = self._connection.recv(65_536)
            assert received, self.answer
            self.answer += received

    def is_silent(self, seconds: float) -> bool:
        """Say whether nothing comes back for so long."""
        self._connection.settimeout(seconds)
        try:
            self.answer += self._connection.recv(65_536)
        except TimeoutError:
            return True
        finally:
            self._connection.settimeout(10)
        return False


def test_answers_arrive_while_lines_are_still_sent(shared_server: RunningServer, queue_name: str) -> None:
    lines = b"".join(_line(queue_name) + b"\n" for _ in range(500))
    with _Import(shared_server) as sent:
        sender = threading.Thread(target=sent.send, args=(lines,))
        sender.start()
        sent.read_up_to(b'{"line":500,')
        sender.join()

    assert b" 200 OK" in sent.answer


@pytest.mark.parametrize("count", [10, 700], ids=["less than a chunk", "what is left of a chunk"])
def test_lines_are_answered_although_the_next_ones_do_not_come(
    shared_server: RunningServer, queue_name: str, count: int
) -> None:
    """They waited, neither recorded nor answered, until the chunk was full or the connection was given up."""
    with _Import(shared_server) as sent:
        sent.send(b"".join(_line(queue_name) + b"\n" for _ in range(count)))

        sent.read_up_to(b'{"line":%d,' % count)

    assert count == sent.answer.count(b'"id":')


def test_half_a_line_waits_for_its_other_half(shared_server: RunningServer, queue_name: str) -> None:
    line = _line(queue_name) + b"\n"
    with _Import(shared_server) as sent:
        sent.send(line + line[:20])
        sent.read_up_to(b'{"line":1,')

        sent.send(line[20:])
        sent.read_up_to(b'{"line":2,')

    assert b'"error"' not in sent.answer


@pytest.fixture
def cramped(database_url: str) -> Iterator[RunningServer]:
    """A server with a mebibyte for the bodies of all requests."""
    mebibyte = str(1024 * 1024)
    settings = {"QUORRA_BODIES_BYTES_MAX": mebibyte, "QUORRA_BATCH_BYTES_MAX": mebibyte}
    with start_server(database_url, settings) as server:
        yield server


# More than half of that mebibyte: two do not fit.
WIDE = _line("q", payload={"text": "x" * 600_000})


def _post(server: RunningServer) -> httpx.Response:
    return httpx.post(f"{server.http_url}/v1/jobs/batch", content=WIDE, headers={**server.headers, **NDJSON})


def test_an_import_beyond_the_servers_memory_is_429_and_names_the_limit(cramped: RunningServer) -> None:
    with _Import(cramped) as first:
        first.send(WIDE)

        eventually_sync(lambda: _post(cramped).status_code == 429, "both do not fit")
        refused = _post(cramped)

    assert "QUORRA_BODIES_BYTES_MAX" in refused.json()["detail"]
    assert "1" == refused.headers["Retry-After"]
    eventually_sync(lambda: _post(cramped).status_code == 200, "the room is given back")


def test_lines_that_were_answered_take_no_room(cramped: RunningServer) -> None:
    with _Import(cramped) as first:
        first.send(WIDE + b"\n")
        first.read_up_to(b'{"line":1,')

        answer = _post(cramped)

    assert (200, True) == (answer.status_code, "id" in answer.json())


def test_lines_that_are_left_out_or_cut_take_no_room(cramped: RunningServer) -> None:
    with _Import(cramped) as sent:
        for _ in range(4):
            sent.send(b"\n" * 600_000)
        sent.send(_line("q") + b"\n")
        sent.read_up_to(b'{"line":2400001,')

    assert b'"error"' not in sent.answer


def test_an_import_that_has_answers_waits_for_room(cramped: RunningServer) -> None:
    with _Import(cramped) as begun:
        begun.send(_line("q") + b"\n")
        begun.read_up_to(b'{"line":1,')
        with _Import(cramped) as other:
            other.send(WIDE)
            eventually_sync(lambda: _post(cramped).status_code == 429, "the other one has the room")

            begun.send(WIDE + b"\n")
            assert begun.is_silent(0.5)

        begun.read_up_to(b'{"line":2,')

    assert b'"error"' not in begun.answer
