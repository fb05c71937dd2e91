"""The command line against a real server: what it prints, where, and with which exit code."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import BIN, RunningServer, clean_environment, start_worker
from tests.support.services import free_port

Run = Callable[..., "subprocess.CompletedProcess[str]"]

MODULE = """
    from quorra_worker_sdk import Worker

    worker = Worker(queues=["cli-worker"])

    @worker.job("works")
    async def works() -> str:
        return "yes"

    @worker.job("breaks")
    async def breaks() -> None:
        raise RuntimeError("no")
"""


@pytest.fixture
def ctl(shared_server: RunningServer, tmp_path: Path) -> Run:
    def run(*arguments: str, stdin: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(BIN / "quorractl"), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**clean_environment(), **shared_server.environment, "XDG_CONFIG_HOME": str(tmp_path), **environment},
        )

    return run


def test_a_job_is_created_read_listed_and_cancelled(ctl: Run, queue_name: str) -> None:
    created = ctl("create", "mail", "-d", '{"n": 1.50}', "-q", queue_name, "--tag", "a", "-o", "name")
    job_id = created.stdout.strip()

    shown = json.loads(ctl("get", job_id, "-o", "json").stdout)
    listed = ctl("list", "-q", queue_name, "--where", "n=1.5", "-o", "name").stdout.split()
    cancelled = ctl("cancel", job_id, "-o", "jsonl")

    assert (0, "") == (created.returncode, created.stderr)
    assert ({"n": 1.5}, ["a"]) == (shown["payload"], shown["tags"])
    assert [job_id] == listed
    assert "cancelled" == json.loads(cancelled.stdout)["status"]


def test_tables_for_pipes_are_plain_and_counts_are_shown(ctl: Run, queue_name: str) -> None:
    ctl("create", "t", "-q", queue_name)

    queues, stats = ctl("queues").stdout, ctl("stats").stdout

    assert f"{queue_name}\tpending\t1" in queues.splitlines()
    assert "QUEUE\tSTATUS\tCOUNT" == queues.splitlines()[0]
    assert f"{queue_name}\t1\t0" in stats
    assert "\x1b" not in queues + stats


def test_exit_codes_say_what_went_wrong(ctl: Run, queue_name: str) -> None:
    job_id = ctl("create", "t", "-q", queue_name, "-o", "name").stdout.strip()
    codes = {
        "usage": ctl("create").returncode,
        "bad data": ctl("create", "t", "-d", "{bad").returncode,
        "not found": ctl("get", "00000000-0000-7000-8000-000000000000").returncode,
        "authentication": ctl("queues", QUORRA_API_KEY="wrong").returncode,
        "conflict": ctl("retry", job_id).returncode,
        "unreachable": ctl("--server", f"http://127.0.0.1:{free_port()}", "queues").returncode,
        "timed out": ctl("wait", job_id, "--timeout", "1s").returncode,
    }

    assert {
        "usage": 2,
        "bad data": 2,
        "not found": 3,
        "authentication": 4,
        "conflict": 5,
        "unreachable": 6,
        "timed out": 7,
    } == codes


def test_every_error_goes_to_standard_error_and_says_what_to_do(ctl: Run) -> None:
    refused = ctl("queues", QUORRA_API_KEY="wrong")

    assert "" == refused.stdout
    assert "QUORRA_API_KEY" in refused.stderr


def test_waiting_shows_the_end_and_its_exit_code(ctl: Run, shared_server: RunningServer, tmp_path: Path) -> None:
    with start_worker(shared_server, MODULE, tmp_path):
        good = ctl("create", "works", "-q", "cli-worker", "--wait", "--timeout", "30s", "-o", "json")
        bad = ctl("create", "breaks", "-q", "cli-worker", "--max-retries", "0", "--wait", "--timeout", "30s")

    assert (0, "yes") == (good.returncode, json.loads(good.stdout)["result"])
    assert 8 == bad.returncode
    assert "dead" in bad.stderr


def test_an_import_reports_bad_lines_and_records_the_others(ctl: Run, queue_name: str, tmp_path: Path) -> None:
    lines = [json.dumps({"type": "t", "payload": {"n": n}, "queue": queue_name}) for n in range(2500)]
    file = tmp_path / "jobs.ndjson"
    file.write_text("\n".join([*lines[:10], '{"type":""}', *lines[10:]]) + "\n")

    done = ctl("import", str(file), "-o", "json")

    report = json.loads(done.stdout)
    assert (1, 2500, 1) == (done.returncode, report["submitted"], report["failed"])
    assert "line 11:" in done.stderr


def test_refused_lines_that_were_mended_are_all_that_is_submitted_again(
    ctl: Run, queue_name: str, tmp_path: Path
) -> None:
    good = json.dumps({"type": "t", "payload": {}, "queue": queue_name}) + "\n"
    file = tmp_path / "jobs.ndjson"
    file.write_text(good + '{"type":""}\n' + good)
    first = ctl("import", str(file), "-o", "json")

    file.write_text(good * 3)
    again = ctl("import", str(file), "-o", "json")

    reports = [json.loads(done.stdout) for done in (first, again)]
    assert [(2, 0, 1), (1, 2, 0)] == [(found["submitted"], found["existing"], found["failed"]) for found in reports]
    assert not list(tmp_path.glob("*.quorra-import"))


def test_an_import_that_was_cut_goes_on_without_doubling(ctl: Run, queue_name: str, tmp_path: Path) -> None:
    line = json.dumps({"type": "t", "payload": {}, "queue": queue_name}) + "\n"
    file = tmp_path / "jobs.ndjson"
    file.write_text(line * 1000)
    state = tmp_path / "jobs.ndjson.quorra-import"
    start = {"server": "", "seed": "0" * 32, "began_ms": 1_790_000_000_000}
    state.write_text(json.dumps(start))
    first = json.loads(ctl("import", str(file), "-o", "json").stdout)

    # The answer to the first thousand lines was lost with the cut: the state is as before it.
    state.write_text(json.dumps(start))
    file.write_text(line * 1500)
    second = json.loads(ctl("import", str(file), "-o", "json").stdout)

    assert (1000, 0) == (first["submitted"], first["existing"])
    assert (500, 1000) == (second["submitted"], second["existing"])


def test_any_line_that_the_server_takes_can_be_repeated(ctl: Run, queue_name: str, tmp_path: Path) -> None:
    file, state = tmp_path / "jobs.ndjson", tmp_path / "jobs.ndjson.quorra-import"
    file.write_text(
        f'{{"id": null, "type": "t", "payload": {{}}, "queue": "{queue_name}"}}\n'
        f'{{"type": "t", "payload": {{"n": {"9" * 5000}}}, "queue": "{queue_name}"}}\n'
        f'{{"type": "t", "payload": {{"n": {"[" * 5000}{"]" * 5000}}}, "queue": "{queue_name}"}}\n'
    )
    start = json.dumps({"server": "", "seed": "1" * 32, "began_ms": 1_790_000_000_000})
    state.write_text(start)
    first = json.loads(ctl("import", str(file), "-o", "json").stdout)

    state.write_text(start)
    again = json.loads(ctl("import", str(file), "-o", "json").stdout)

    assert (2, 0, 1) == (first["submitted"], first["existing"], first["failed"])
    assert (0, 2, 1) == (again["submitted"], again["existing"], again["failed"])


def test_an_empty_filter_matches_nothing(ctl: Run, queue_name: str) -> None:
    ctl("create", "t", "-q", queue_name)

    for option in ("--queue", "--type", "--tag", "--status", "--since", "--until"):
        counted = ctl("cancel", "--filter", option, "", "--dry-run")
        listed = ctl("list", option, "")

        assert (1, 1, "", "") == (counted.returncode, listed.returncode, counted.stdout, listed.stdout), option


def test_bulk_verbs_count_first_and_do_nothing_unasked(ctl: Run, queue_name: str) -> None:
    for _ in range(3):
        ctl("create", "t", "-q", queue_name)

    counted = json.loads(ctl("cancel", "--filter", "-q", queue_name, "--dry-run", "-o", "json").stdout)
    unasked = ctl("cancel", "--filter", "-q", queue_name)
    done = json.loads(ctl("cancel", "--filter", "-q", queue_name, "--yes", "-o", "json").stdout)

    assert (3, 0) == (counted["matched"], counted["changed"])
    assert 2 == unasked.returncode
    assert 3 == done["changed"]


def test_contexts_are_kept_for_their_owner_only(ctl: Run, shared_server: RunningServer, tmp_path: Path) -> None:
    ctl("context", "add", "here", "--server", shared_server.http_url, QUORRA_API_KEY=shared_server.api_key)

    file = tmp_path / "quorractl/contexts.json"
    listed = ctl("context", "list")
    tested = ctl("--context", "here", "queues", QUORRA_API_KEY="", QUORRA_SERVER="")

    assert 0o600 == os.stat(file).st_mode & 0o777
    assert shared_server.api_key not in listed.stdout
    assert 0 == tested.returncode


def test_health_version_completion_and_dead_letters(ctl: Run, shared_server: RunningServer) -> None:
    health = json.loads(ctl("server", "health", "-o", "json").stdout)

    assert ("ok", "SERVING") == (health["http"], health["grpc"])
    assert "0.1.0" == ctl("server", "version", "-o", "name").stdout.strip()
    assert "complete" in ctl("completion", "bash").stdout
    assert 0 == ctl("dead", "list").returncode
    assert 0 == ctl("worker", "list").returncode


def test_control_bytes_of_the_server_never_reach_the_terminal(ctl: Run, queue_name: str) -> None:
    job_id = ctl("create", "t", "-q", queue_name, "-d", '{"x": "\\u001b[31mred"}', "-o", "name").stdout.strip()

    assert "\x1b" not in ctl("get", job_id).stdout
