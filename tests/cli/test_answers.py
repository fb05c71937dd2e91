"""What is typed and what is answered, at their edges: each ends in a sentence and an exit code, not in a traceback."""

import json

import httpx
import pytest

from tests.cli.scripted import ScriptedServer, a_job, refusal

INVALID = (422, "invalid_request")
JOB = httpx.Response(200, json=a_job())
DIGITS = "9" * 5_000
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
        (("list", "--where", f"x={'[' * 100_000}"), "query"),
        (("create", "t", "--idempotency-key", "größe"), "--idempotency-key"),
        (("create", "t", "--idempotency-key", "a\nb"), "--idempotency-key"),
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
@pytest.mark.parametrize("of", ["a page", "an object", "a list"])
def test_an_answer_of_somebody_else_is_told_from_one_of_the_server(
    scripted: ScriptedServer, arguments: tuple[str, ...], status: int, exit_code: int, of: str
) -> None:
    content = {"a page": "<h1>Bad gateway</h1>", "an object": '{"message": "Bad gateway"}', "a list": "[]"}[of]

    done = scripted.run(*arguments, answers=(httpx.Response(status, content=content),))

    assert exit_code == done.exit_code
    assert f"http://quorra.test answered {status}" in done.stderr
    assert "--server" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        *(("create", "t"), ("get", "1"), ("list",), ("wait", "1"), ("cancel", "1"), ("retry", "--filter", "--dry-run")),
        *(("stats",), ("queue", "get", "q"), ("dead", "list"), ("dead", "show", "1"), ("dead", "replay", "1")),
        *(("dead", "purge", "1", "--yes"), ("job", "history", "1"), ("job", "logs", "1"), ("worker", "list")),
        *(("server", "version"), ("server", "health"), ("context", "test")),
    ],
    ids=" ".join,
)
def test_no_verb_takes_an_object_of_somebody_else_for_an_answer(
    scripted: ScriptedServer, arguments: tuple[str, ...]
) -> None:
    done = scripted.run(*arguments, answers=(httpx.Response(200, json={"message": "Welcome"}),))

    assert (1, "") == (done.exit_code, done.stdout)
    assert "http://quorra.test answered 200, and not as a Quorra server does" in done.stderr


def test_a_refused_key_is_not_a_server_that_is_not_ready(scripted: ScriptedServer) -> None:
    done = scripted.run("server", "health", answers=(refusal(401, "unauthenticated"),))

    assert (4, "") == (done.exit_code, done.stdout)
    assert "Set QUORRA_API_KEY" in done.stderr


def test_a_server_that_is_not_ready_shows_why(scripted: ScriptedServer) -> None:
    answer = httpx.Response(503, json={"status": "unavailable", "problems": ["The database is away."]})

    done = scripted.run("server", "health", "-o", "json", answers=(answer,))

    assert 1 == done.exit_code
    assert ["The database is away."] == json.loads(done.stdout)["problems"]


def test_an_address_of_the_server_that_is_not_utf_8_is_a_usage_mistake(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUORRA_SERVER", "http://quorra.test/\udcff")

    assert 2 == scripted.run("queues").exit_code


def test_an_address_for_grpc_that_cannot_be_one_is_a_usage_mistake(scripted: ScriptedServer) -> None:
    ready = httpx.Response(200, json={"status": "ok", "problems": []})

    assert 2 == scripted.run("server", "health", "--grpc", "größe:50051", answers=(ready,)).exit_code


@pytest.mark.parametrize(
    "verb",
    [
        *(["get"], ["wait"], ["cancel"], ["retry"], ["job", "history"], ["job", "logs"], ["dead", "show"]),
        ["queue", "get"],
    ],
    ids=" ".join,
)
def test_an_empty_id_or_name_is_not_taken_for_all(scripted: ScriptedServer, verb: list[str]) -> None:
    done = scripted.run(*verb, "")

    assert 2 == done.exit_code
    assert "ID or a name is empty" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (("job", "history", "../queues?x"), "/v1/jobs/..%2Fqueues%3Fx/history"),
        (("job", "logs", "a/b#c"), "/v1/jobs/a%2Fb%23c/logs"),
        (("get", ".."), "/v1/jobs/%2E%2E"),
        (("cancel", "."), "/v1/jobs/%2E/cancel"),
        (("queue", "get", ".."), "/v1/queues/%2E%2E"),
        (("queue", "get", "ü.%"), "/v1/queues/%C3%BC.%25"),
    ],
)
def test_an_id_or_name_never_leads_to_another_path(
    scripted: ScriptedServer, arguments: tuple[str, ...], path: str
) -> None:
    done = scripted.run(*arguments, answers=(refusal(404, "job_not_found"),))

    assert path == done.requests[0].url.raw_path.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        *(("get", "\udcff"), ("list", "--tag", "\udcff"), ("queue", "get", "\udcff"), ("import", "\udcff")),
        *(("create", "\udcff"), ("create", "t", "-d", '{"a": "\udcff"}'), ("--server", "http://\udcff@a", "queues")),
    ],
)
def test_an_argument_that_is_not_utf_8_is_a_usage_mistake(scripted: ScriptedServer, arguments: tuple[str, ...]) -> None:
    done = scripted.run(*arguments)

    assert 2 == done.exit_code
    assert "is not UTF-8" in done.stderr


def test_a_long_number_is_sent_as_it_was_typed(scripted: ScriptedServer) -> None:
    done = scripted.run("create", "t", "-d", f'{{"n": {DIGITS}}}', answers=(JOB,))

    assert DIGITS == json.loads(done.requests[0].content, parse_int=str)["payload"]["n"]


def test_a_long_number_is_searched_for_as_a_number(scripted: ScriptedServer) -> None:
    page = httpx.Response(200, json={"jobs": [], "next_cursor": None})

    done = scripted.run("list", "--where", f"n={DIGITS}", "--where", "s=[a", answers=(page,))

    assert f'{{"n": {DIGITS}, "s": "[a"}}' == done.requests[0].url.params["payload"]


def test_a_long_number_of_the_server_is_shown(scripted: ScriptedServer) -> None:
    answer = httpx.Response(200, content=json.dumps(a_job(payload={"n": "DIGITS"})).replace('"DIGITS"', DIGITS))

    done = scripted.run("get", "1", answers=(answer,))

    assert 0 == done.exit_code
    assert DIGITS in done.stdout


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("dead", "purge", "--before", "2026-11-01T00:00:00Z", "--yes"), {"purged": 1}),
        (("cancel", "--filter", "--dry-run"), {"matched": 1, "changed": 0}),
        (("retry", "--filter", "--dry-run"), {"matched": 1, "changed": 0}),
    ],
)
def test_what_takes_longer_the_more_jobs_there_are_is_waited_for(
    scripted: ScriptedServer, arguments: tuple[str, ...], answer: dict[str, int]
) -> None:
    """A server whose client leaves stops halfway."""
    done = scripted.run(*arguments, answers=(httpx.Response(200, json=answer),))

    assert {"connect": 30.0, "read": None, "write": 30.0, "pool": 30.0} == done.requests[0].extensions["timeout"]


def test_a_server_that_is_late_is_not_said_to_be_away(scripted: ScriptedServer) -> None:
    done = scripted.run("create", "t", answers=(httpx.ReadTimeout("timed out"),))

    assert 6 == done.exit_code
    assert "took the request and has not answered in time" in done.stderr


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
