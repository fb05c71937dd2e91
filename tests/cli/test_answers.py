"""What is typed and what is answered, at their edges: each ends in a sentence and an exit code, not in a traceback."""

import json

import httpx
import pytest

from tests.cli.scripted import ScriptedServer, a_job, refusal

INVALID = (422, "invalid_request")
FILTERS = [
    ("--status", "status"),
    ("--queue", "queue"),
    ("--type", "type"),
    ("--tag", "tag"),
    ("--since", "created_after"),
    ("--until", "created_before"),
]


@pytest.mark.parametrize("verb", ["cancel", "retry"])
@pytest.mark.parametrize(("option", "field"), FILTERS)
def test_an_empty_option_never_widens_what_is_changed(
    scripted: ScriptedServer, verb: str, option: str, field: str
) -> None:
    done = scripted.run(verb, "--filter", option, "", "--yes", answers=(refusal(*INVALID),))

    assert {field: ""} == json.loads(done.requests[0].content)["filter"]
    assert 1 == done.exit_code


@pytest.mark.parametrize(
    ("verb", "option", "field"),
    [
        *((["list"], *names) for names in FILTERS),
        (["dead", "list"], "--queue", "queue"),
        (["dead", "list"], "--type", "type"),
    ],
)
def test_an_empty_option_never_widens_what_is_listed(
    scripted: ScriptedServer, verb: list[str], option: str, field: str
) -> None:
    done = scripted.run(*verb, option, "", answers=(refusal(*INVALID),))

    assert "" == done.requests[0].url.params[field]


def test_an_empty_idempotency_key_is_not_left_out(scripted: ScriptedServer) -> None:
    done = scripted.run("create", "t", "--idempotency-key", "", answers=(refusal(*INVALID),))

    assert "" == done.requests[0].headers["Idempotency-Key"]


@pytest.mark.parametrize(
    "arguments", [("dead", "replay", "1", "-d", ""), ("wait", "1", "--timeout", "")], ids=["payload", "timeout"]
)
def test_an_empty_option_is_not_taken_for_its_default(scripted: ScriptedServer, arguments: tuple[str, ...]) -> None:
    assert 2 == scripted.run(*arguments).exit_code


def test_a_key_is_sent_without_the_end_of_its_line(scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUORRA_API_KEY", "the-key\r\n")

    done = scripted.run("queues", answers=(httpx.Response(200, json={"queues": []}),))

    assert "the-key" == done.requests[0].headers["X-API-Key"]


@pytest.mark.parametrize("key", ["s3cr\net", "s3crét", "s3cr\udcff"])
def test_a_key_that_no_header_can_carry_is_named_and_not_shown(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("QUORRA_API_KEY", key)

    done = scripted.run("queues")

    assert 2 == done.exit_code
    assert "QUORRA_API_KEY" in done.stderr
    assert "s3cr" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("create", "t", "--idempotency-key", "größe"), "--idempotency-key"),
        (("create", "t", "--idempotency-key", "a\nb"), "--idempotency-key"),
        (("create", "t", "-d", '{"a": "\udcff"}'), "--data"),
        (("--server", "http://localhost:80a80", "queues"), "--server"),
        (("--server", "http://localhost:80800", "queues"), "--server"),
        (("--server", "localhost:8080", "queues"), "--server"),
        (("context", "add", "here", "--server", "http://localhost:80a80"), "--server"),
    ],
)
def test_what_cannot_be_sent_is_a_usage_mistake_that_names_its_option(
    scripted: ScriptedServer, arguments: tuple[str, ...], field: str
) -> None:
    done = scripted.run(*arguments)

    assert 2 == done.exit_code
    assert field in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "exit_code"),
    [(("queues",), 200, 1), (("queues",), 502, 1), (("server", "health"), 502, 1), (("get", "1"), 404, 3)],
)
def test_a_page_of_somebody_else_is_told_from_an_answer(
    scripted: ScriptedServer, arguments: tuple[str, ...], status: int, exit_code: int
) -> None:
    done = scripted.run(*arguments, answers=(httpx.Response(status, html="<h1>Bad gateway</h1>"),))

    assert exit_code == done.exit_code
    assert f"http://quorra.test answered {status}" in done.stderr
    assert "--server" in done.stderr


def test_waiting_a_second_waits_a_second(scripted: ScriptedServer) -> None:
    ended = httpx.Response(200, json=a_job(status="succeeded"))

    done = scripted.run("wait", "1", "--timeout", "1s", answers=(ended,))

    assert "1s" == done.requests[0].url.params.get("wait")


def test_changes_before_one_that_fails_are_shown(scripted: ScriptedServer) -> None:
    answers = (httpx.Response(200, json=a_job("a", status="cancelled")), refusal(409, "illegal_transition"))

    done = scripted.run("cancel", "a", "b", "c", "-o", "name", answers=answers)

    assert (5, "a\n") == (done.exit_code, done.stdout)
    assert "1 of 3 jobs were changed; see to b" in done.stderr


def test_names_on_a_terminal_are_not_turned_into_pictures(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    page = {"jobs": [a_job(type="api:key:rotate")], "next_cursor": None}

    done = scripted.run("list", answers=(httpx.Response(200, json=page),))

    assert "api:key:rotate" in done.stdout
