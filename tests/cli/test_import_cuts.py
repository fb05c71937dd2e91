"""Imports that are cut or refused in part: nothing is doubled, left out or forgotten when the command is repeated."""

import json
import os
from pathlib import Path

import httpx
import pytest
from quorractl.commands import importing

from tests.cli.scripted import CUT, Answer, ScriptedServer, answered, lines_of, problem

A_JOB = '{"type":"t","payload":{}}\n'
INVALID = problem(422, "invalid_request", "type is missing.")


@pytest.fixture(autouse=True)
def _two_lines_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "LINES_PER_REQUEST", 2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Four jobs, which go in two requests."""
    file = tmp_path / "jobs.ndjson"
    file.write_text(A_JOB * 4)
    return file


@pytest.fixture
def kept(file: Path) -> Path:
    """Where the progress of the import is kept."""
    return file.with_name("jobs.ndjson.quorra-import")


def test_lines_that_were_recorded_and_not_answered_come_again_under_the_same_ids(
    scripted: ScriptedServer, file: Path
) -> None:
    cut = scripted.run("import", str(file), answers=(CUT,))
    again = scripted.run("import", str(file), "-o", "json", answers=(answered(existing=True), answered()))

    assert (6, 0) == (cut.exit_code, again.exit_code)
    assert lines_of(cut.requests[0]) == lines_of(again.requests[0])
    assert "0 lines are done; repeat the command" in cut.stderr


def test_a_report_is_of_the_whole_file_also_after_a_cut(scripted: ScriptedServer, file: Path) -> None:
    refused = answered({2: INVALID})
    scripted.run("import", str(file), answers=(refused, CUT))

    again = scripted.run("import", str(file), "-o", "json", answers=(answered(existing=True),))

    report = json.loads(again.stdout)
    assert (1, 2, 1) == (report["submitted"], report["existing"], report["failed"])
    assert "line 2: type is missing." in again.stderr
    assert 1 == again.exit_code


@pytest.mark.parametrize("code", ["storage_unavailable", "outcome_unknown"])
def test_an_outage_refuses_no_line_and_the_import_goes_on_there(
    scripted: ScriptedServer, file: Path, kept: Path, code: str
) -> None:
    outage = answered({1: problem(422, "invalid_request"), 2: problem(503, code, "Try again shortly.")})

    stopped = scripted.run("import", str(file), answers=(answered(), outage))
    lines_done = json.loads(kept.read_text())["lines_done"]
    again = scripted.run("import", str(file), "-o", "json", answers=(answered(),))

    assert (1, 2) == (stopped.exit_code, lines_done)
    assert "Try again shortly." in stopped.stderr
    assert "2 lines are done; repeat the command" in stopped.stderr
    assert lines_of(stopped.requests[1]) == lines_of(again.requests[0])
    assert (0, 0) == (again.exit_code, json.loads(again.stdout)["failed"])


@pytest.mark.parametrize(
    "answer",
    [answered(lines=1), httpx.Response(200, content=b'{"line":1}\n{"li'), httpx.Response(200, html="<p>Welcome</p>")],
    ids=["a line is missing", "half a line", "a page of somebody else's"],
)
def test_an_answer_that_misses_lines_counts_none_of_them(
    scripted: ScriptedServer, file: Path, kept: Path, answer: Answer
) -> None:
    stopped = scripted.run("import", str(file), answers=(answered(), answer))

    assert 6 == stopped.exit_code
    assert "did not answer every line" in stopped.stderr
    assert 2 == json.loads(kept.read_text())["lines_done"]


def test_blank_lines_are_neither_answered_nor_missed(scripted: ScriptedServer, file: Path) -> None:
    file.write_text(f"{A_JOB}\n  \n{A_JOB}")

    done = scripted.run("import", str(file), "-o", "json", answers=(answered(), answered()))

    assert (0, 2) == (done.exit_code, json.loads(done.stdout)["submitted"])


def test_line_ends_of_unicode_in_a_reason_do_not_end_an_answer(scripted: ScriptedServer, file: Path) -> None:
    refused = answered({2: problem(422, "invalid_request", "queue is 'a\u2028b\u0085c'.")})

    done = scripted.run("import", str(file), "-o", "json", answers=(refused, answered()))

    assert (3, 1) == (json.loads(done.stdout)["submitted"], json.loads(done.stdout)["failed"])


def test_an_import_goes_on_only_in_the_file_that_it_began(scripted: ScriptedServer, file: Path, kept: Path) -> None:
    scripted.run("import", str(file), answers=(answered(), CUT))
    file.write_text('{"type":"x","payload":{}}\n' * 4)

    refused = scripted.run("import", str(file))

    assert 1 == refused.exit_code
    assert f"remove {kept}" in refused.stderr


def test_an_import_goes_on_only_at_the_server_where_it_began(scripted: ScriptedServer, file: Path, kept: Path) -> None:
    scripted.run("import", str(file), answers=(answered(), CUT))

    refused = scripted.run("--server", "http://other.test", "import", str(file))
    gone_on = scripted.run("import", str(file), answers=(answered(),))

    assert (1, 0) == (refused.exit_code, gone_on.exit_code)
    assert "went to http://quorra.test, not to http://other.test" in refused.stderr
    assert f"remove {kept}" in refused.stderr


def test_a_file_that_has_grown_goes_on_too(scripted: ScriptedServer, file: Path) -> None:
    scripted.run("import", str(file), answers=(answered(), CUT))
    file.write_text(A_JOB * 5)

    done = scripted.run("import", str(file), "-o", "json", answers=(answered(), answered()))

    assert (0, 5) == (done.exit_code, json.loads(done.stdout)["submitted"])


def test_what_can_be_read_only_once_keeps_no_progress_and_says_so(scripted: ScriptedServer) -> None:
    reading, writing = os.pipe()
    os.write(writing, A_JOB.encode() * 3)
    os.close(writing)

    cut = scripted.run("import", f"/dev/fd/{reading}", answers=(answered(), CUT))
    os.close(reading)

    assert 6 == cut.exit_code
    assert "2 lines are done, which is kept nowhere: leave them out" in cut.stderr


def test_progress_that_cannot_be_read_is_never_taken_for_none(scripted: ScriptedServer, file: Path, kept: Path) -> None:
    kept.write_text('{"seed": ')

    refused = scripted.run("import", str(file))

    assert 1 == refused.exit_code
    assert f"{kept} cannot be read" in refused.stderr


def test_no_password_is_kept_with_the_address_of_the_server(scripted: ScriptedServer, file: Path, kept: Path) -> None:
    cut = scripted.run("--server", "http://me:secret@quorra.test", "import", str(file), answers=(CUT,))

    assert "http://quorra.test" == json.loads(kept.read_text())["server"]
    assert "secret" not in cut.stderr


def test_files_beside_the_input_are_left_alone(scripted: ScriptedServer, file: Path) -> None:
    bystander = file.with_name("jobs.ndjson.new")
    bystander.write_text("mine")

    scripted.run("import", str(file), answers=(answered(), answered()))

    assert ["jobs.ndjson", "jobs.ndjson.new"] == sorted(found.name for found in file.parent.glob("jobs*"))
    assert "mine" == bystander.read_text()


@pytest.mark.parametrize(
    "line",
    ['{"id": null, "type": "t", "payload": {"id": null}} \r', f'{{"type":"t","payload":{{"n":{"9" * 5000}}}}}', "{}"],
    ids=["its id is null", "a long number", "no fields"],
)
def test_every_line_gets_an_id_so_that_it_can_be_repeated(scripted: ScriptedServer, file: Path, line: str) -> None:
    file.write_text(line)

    done = scripted.run("import", str(file), answers=(answered(),))

    (sent,) = lines_of(done.requests[0])
    assert "7" == sent["id"][14]
    assert json.loads(line, parse_int=str).get("payload") == sent.get("payload")


def test_a_line_that_is_nested_too_deeply_is_for_the_server_to_refuse(scripted: ScriptedServer, file: Path) -> None:
    line = '{"type":"t","payload":{"x":' + "[" * 100_000 + "]" * 100_000 + "}}\n"
    file.write_text(line)

    done = scripted.run("import", str(file), answers=(answered({1: problem(400, "malformed_request")}),))

    assert line.encode() == done.requests[0].content
    assert 1 == done.exit_code


def test_a_line_that_was_mended_comes_again_with_the_others_under_their_ids(
    scripted: ScriptedServer, file: Path, kept: Path
) -> None:
    refused = scripted.run("import", str(file), answers=(answered({2: INVALID}), answered()))
    file.write_text(A_JOB + '{"type":"mended","payload":{}}\n' + A_JOB * 2)

    again = scripted.run("import", str(file), answers=(answered(), answered(existing=True)))

    ids = [[job["id"] for request in done.requests for job in lines_of(request)] for done in (refused, again)]
    assert (1, 0) == (refused.exit_code, again.exit_code)
    assert f"1 lines were refused; mend them in {file}" in refused.stderr
    assert ids[0] == ids[1]
    assert not kept.exists()


def test_lines_can_be_mended_as_often_as_it_takes_and_cut_meanwhile(scripted: ScriptedServer, file: Path) -> None:
    first = scripted.run("import", str(file), answers=(answered({1: INVALID, 2: INVALID}), answered()))
    scripted.run("import", str(file), answers=(answered({2: INVALID}), CUT))

    scripted.run("import", str(file), answers=(answered(existing=True),))
    last = scripted.run("import", str(file), answers=(answered(), answered(existing=True)))

    assert 0 == last.exit_code
    assert [lines_of(request) for request in first.requests] == [lines_of(request) for request in last.requests]


@pytest.mark.parametrize("lines", [3, 5], ids=["one was taken out", "one was put in"])
def test_a_repeat_with_lines_out_of_their_places_submits_nothing(
    scripted: ScriptedServer, file: Path, kept: Path, lines: int
) -> None:
    """An id is of its line: of lines that moved one would get the free id of the refused line, and be doubled."""
    jobs = [f'{{"type":"{number}","payload":{{}}}}\n' for number in range(4)]
    file.write_text("".join(jobs))
    scripted.run("import", str(file), answers=(answered({2: INVALID}), answered()))
    file.write_text("".join([jobs[0], *[jobs[1]] * (lines - 3), *jobs[2:]]))

    refused = scripted.run("import", str(file))

    assert 1 == refused.exit_code
    assert f"Line 4 of {file} is not the one" in refused.stderr
    assert f"remove {kept}" in refused.stderr


def test_a_file_may_have_grown_when_its_lines_are_mended(scripted: ScriptedServer, file: Path) -> None:
    scripted.run("import", str(file), answers=(answered({2: INVALID}), answered()))
    file.write_text(A_JOB * 5)

    again = scripted.run("import", str(file), answers=(answered(), answered(existing=True), answered()))

    assert 0 == again.exit_code
    assert "Lines that were recorded before are not doubled" in again.stderr


def test_every_refused_line_is_told(scripted: ScriptedServer, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "LINES_PER_REQUEST", 50)
    file.write_text(A_JOB * 100)

    done = scripted.run("import", str(file), answers=(answered(dict.fromkeys(range(1, 51), INVALID)),) * 2)

    assert [f"line {number}: type is missing." for number in range(1, 101)] == done.stderr.splitlines()[:-1]


def test_refused_lines_of_what_can_be_read_only_once_are_to_be_imported_alone(scripted: ScriptedServer) -> None:
    reading, writing = os.pipe()
    os.write(writing, A_JOB.encode() * 2)
    os.close(writing)

    done = scripted.run("import", f"/dev/fd/{reading}", answers=(answered({2: INVALID}),))
    os.close(reading)

    assert 1 == done.exit_code
    assert "line 2: type is missing." in done.stderr
    assert "import only them: the other lines are recorded" in done.stderr


def test_large_lines_go_in_requests_of_a_few_mebibytes(
    scripted: ScriptedServer, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "LINES_PER_REQUEST", 1_000)
    file.write_text(f'{{"type":"t","payload":{{"x":"{"a" * 1_000_000}"}}}}\n' * 20)

    done = scripted.run("import", str(file), answers=(answered(),) * 4)

    assert [5, 5, 5, 5] == [len(lines_of(request)) for request in done.requests]


def test_a_line_that_no_server_takes_ends_an_import_which_goes_on_when_it_is_mended(
    scripted: ScriptedServer, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "LINE_BYTES_MAX", 1_000)
    file.write_text(A_JOB * 2 + "[" * 1_001)

    stopped = scripted.run("import", str(file), answers=(answered(),))
    file.write_text(A_JOB * 3)
    again = scripted.run("import", str(file), answers=(answered(),))

    assert (1, 0) == (stopped.exit_code, again.exit_code)
    assert "Line 3 has more than 1,000 bytes, which no server takes. Give NDJSON" in stopped.stderr
    assert "2 lines are done; repeat the command" in stopped.stderr
