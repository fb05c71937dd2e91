"""The comparison with other queues runs, and its tables say what was measured."""

import json
from pathlib import Path

import pytest

from benchmarks.peers.report import markdown
from benchmarks.peers.run import main


@pytest.mark.slow
def test_a_peer_is_installed_and_measured_beside_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "peers.json"

    code = main(["--peers", "pgqueuer", "--short", "--json", str(file), "drain"])

    results = json.loads(file.read_text())
    if results["missing"]:
        pytest.skip(f"the peer cannot be installed here: {results['missing']}")
    assert code == 0
    measured = {(row["contestant"], row["scenario"]) for row in results["rows"] if row["value"]}
    assert {
        ("quorra", "drain, 1 worker"),
        ("quorra", "drain, 2 workers"),
        ("pgqueuer", "drain, 1 worker"),
        ("pgqueuer", "drain, 2 workers"),
    } == measured
    assert "| PgQueuer 1.6.0 |" in capsys.readouterr().out


def test_an_unknown_peer_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--peers", "graphile,nobody"])

    said = capsys.readouterr().err
    assert "no peer nobody" in said
    assert "graphile, pgboss" in said


def test_tables_have_medians_ranges_failures_and_who_is_missing() -> None:
    rows = [_row("quorra", "bulk", value) for value in (30_000.0, 10_000.0, 20_000.0)]
    rows.append(_row("graphile", "bulk", None))

    tables = markdown(_results(rows, missing={"pg-boss 12.38.0": "npm is not here"}))

    assert "| Quorra, REST | 20,000 (10,000 - 30,000) |" in tables
    assert "| graphile-worker 0.18.0 | failed |" in tables
    assert "* pg-boss 12.38.0 was not measured: npm is not here" in tables
    assert "medians and ranges of 1 rounds" in tables


def test_a_short_run_says_that_it_measures_nothing() -> None:
    tables = markdown(_results([_row("quorra", "bulk", 1.0)], short=True))

    assert "one short round, which measures nothing" in tables


def _row(contestant: str, scenario: str, value: float | None) -> dict[str, object]:
    return {
        "contestant": contestant,
        "round": 1,
        "scenario": scenario,
        "value": value,
        "unit": "jobs/s",
        "costs": {},
        "noise_ms": [100.0, 110.0],
    }


def _results(
    rows: list[dict[str, object]], *, short: bool = False, missing: dict[str, str] | None = None
) -> dict[str, object]:
    return {
        "at": "2026-01-01T00:00:00+00:00",
        "short": short,
        "machine": "2 CPUs",
        "postgres": "fsync on",
        "redis": "appendfsync everysec",
        "missing": missing or {},
        "rows": rows,
    }
