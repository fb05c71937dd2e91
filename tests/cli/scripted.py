"""A server of which a test says each answer, without a process or a socket: for what a real one cannot be held in."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from quorractl.main import main

Answer = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]
CUT = httpx.ReadError("the connection was cut")


@dataclass(frozen=True)
class Done:
    """What a command said, and the requests that it made."""

    exit_code: int
    stdout: str
    stderr: str
    requests: list[httpx.Request]


@dataclass
class ScriptedServer:
    """Runs commands in this process; each request gets the next of the answers."""

    capture: "pytest.CaptureFixture[str]"
    answers: list[Answer] = field(default_factory=list)
    requests: list[httpx.Request] = field(default_factory=list)

    def run(self, *arguments: str, answers: tuple[Answer, ...] = ()) -> Done:
        self.answers, self.requests = list(answers), []
        exit_code = main(list(arguments))
        told = self.capture.readouterr()
        assert [] == self.answers, "the command asked for less than the test says"
        return Done(exit_code, told.out, told.err, self.requests)

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        assert self.answers, f"nothing is said of {request.method} {request.url}"
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else answer(request)


def problem(status: int, code: str, detail: str = "Do something else.") -> dict[str, Any]:
    """Return problem details, of a reply or of one line of an import."""
    return {"status": status, "code": code, "detail": detail}


def refusal(status: int, code: str) -> httpx.Response:
    """Return a reply that refuses a request."""
    return httpx.Response(status, json=problem(status, code))


def a_job(job_id: str = "1", **fields: Any) -> dict[str, Any]:
    """Return a job as the server shows it."""
    return {"id": job_id, "type": "t", "queue": "q", "status": "pending", "last_error": None, **fields}


def lines_of(request: httpx.Request) -> list[dict[str, Any]]:
    """Return the jobs of an import's request; their numbers as text."""
    return [json.loads(line, parse_int=str) for line in request.content.split(b"\n") if line.strip()]


def answered(
    refused: dict[int, dict[str, Any]] | None = None, *, existing: bool = False, lines: int | None = None
) -> Callable[[httpx.Request], httpx.Response]:
    """Return what answers an import line by line; `refused` has problems by line, `lines` is where it is cut."""

    def answer(request: httpx.Request) -> httpx.Response:
        numbers = [number for number, line in enumerate(request.content.split(b"\n"), 1) if line.strip()]
        answers = [
            {"line": number, "error": refused[number]}
            if refused and number in refused
            else {"line": number, "id": "1", "existing": existing}
            for number in numbers[:lines]
        ]
        text = "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
        return httpx.Response(200, content=text.encode())

    return answer
