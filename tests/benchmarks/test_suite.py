"""The benchmarks run, and their report holds what they measured."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
# On a machine with nothing else to do they take a tenth of it.
SUITE_SECONDS_MAX = 400


def _bench(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=SUITE_SECONDS_MAX)


def _may_trace() -> bool:
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    return os.geteuid() == 0 or not scope.exists() or scope.read_text().strip() == "0"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw results of two scenarios, measured once for all of these tests."""
    file = tmp_path_factory.mktemp("bench") / "results.json"
    done = _bench("latency", "snapshot", "--short", "--json", str(file))
    assert 0 == done.returncode, done.stdout + done.stderr
    return file


@pytest.mark.slow
@pytest.mark.timeout(SUITE_SECONDS_MAX)
def test_every_figure_says_what_it_cost_and_how_noisy_it_was(results: Path) -> None:
    figures = json.loads(results.read_text())["figures"]

    drained = [figure for figure in figures if figure["unit"] == "jobs/s"]

    assert ["drain, no transaction beside", "drain, a snapshot open since before"] == [row["what"] for row in drained]
    assert all(row["value"] > 0 for row in drained)
    assert all(2 == len(row["loops_ms"]) for row in figures)
    assert all(row["cpu_us"][role] > 0 for row in drained for role in ("PostgreSQL", "server", "worker", "generator"))
    assert all(0 < row["generator_percent"] < 100 for row in drained)


@pytest.mark.slow
def test_a_report_is_made_of_raw_results_alone(results: Path, tmp_path: Path) -> None:
    done = _bench("report", str(results), str(results), "--to", str(tmp_path))

    assert 0 == done.returncode, done.stderr
    report = (tmp_path / "report.md").read_text()
    assert "| drain, a snapshot open since before |" in report
    assert "| submit to handler, p99 |" in report
    assert "| synchronous_commit | on |" in report
    plots = [line.partition("](")[2].rstrip(")") for line in report.splitlines() if line.startswith("![")]
    assert {"snapshot-jobs-per-s.svg", "snapshot-cpu.svg", "latency-ms.svg"} == set(plots)
    for plot in plots:
        text = "".join(ElementTree.parse(tmp_path / plot).getroot().itertext())
        assert "snapshot" in text or "How long a job waits" in text


@pytest.mark.slow
@pytest.mark.timeout(SUITE_SECONDS_MAX)
def test_each_part_of_a_job_stands_beside_its_floor(tmp_path: Path) -> None:
    file = tmp_path / "results.json"

    done = _bench("parts", "--short", "--json", str(file))

    assert 0 == done.returncode, done.stdout + done.stderr
    figures = {figure["what"]: figure["value"] for figure in json.loads(file.read_text())["figures"]}
    floors = {what: figures.pop(what) for what in list(figures) if what.endswith(", floor")}
    statements = {what.partition(": ")[2] for what in figures if what.startswith("PostgreSQL: ")}
    assert {"submit, 20 at a time", "submit, 500 at a time", "lease", "settle", "close"} == statements
    # The bare queue knows no batches.
    assert {what for what in figures if not what.endswith(": close")} == {
        what.removesuffix(", floor") for what in floors
    }
    in_python = [what for what in figures if what.startswith(("client", "server", "worker", "handler", "stream"))]
    assert 7 == len(in_python)
    # A handler by itself is hardly more than its floor.
    assert all(0 < floors[f"{what}, floor"] < figures[what] for what in in_python if not what.startswith("handler"))


@pytest.mark.slow
@pytest.mark.timeout(SUITE_SECONDS_MAX)
@pytest.mark.skipif(not _may_trace(), reason="this kernel lets nobody but root look into other processes")
def test_a_flame_graph_shows_the_code_of_servers_and_workers(tmp_path: Path) -> None:
    done = _bench("flame", "latency", "--short", "--to", str(tmp_path))

    assert 0 == done.returncode, done.stdout + done.stderr
    graphs = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert {"1-server.svg", "2-worker.svg", "3-bare-server.svg", "4-worker.svg"} == set(graphs)
    assert "quorra_server/" in graphs["1-server.svg"]
    assert "quorra_worker_sdk/" in graphs["2-worker.svg"]


def test_a_file_that_holds_no_results_is_refused_by_name(tmp_path: Path) -> None:
    wrong = tmp_path / "other.json"
    wrong.write_text("{}")

    done = _bench("report", str(wrong))

    assert 2 == done.returncode
    assert f"{wrong} holds no raw results" in done.stderr


def test_an_unknown_scenario_is_refused_with_the_names_there_are() -> None:
    done = _bench("dran")

    assert 2 == done.returncode
    assert "dran" in done.stderr
    assert "drain" in done.stderr
