"""The short tier: a minute of mixed faults is passed, a run without faults or without load is unknown."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults.__main__ import main
from tests.faults.mutants import copy_of_packages, plant, planted_bugs, run_check
from tests.support.processes import RunningServer

# Fast to take effect, and together they touch everything.
KINDS = (
    "worker.kill,worker.stop,server.kill,pg.restart_immediate,pg.terminate_storm,net.client.cut_after,net.worker.reset"
)


def _run(folder: Path, *words: str) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    report = folder / "verdict.json"
    main(["--folder", str(folder / "run"), "--json", str(report), "--seed", "1", "--quotas", "short", *words])
    verdict: dict[str, Any] = json.loads(report.read_text())
    return verdict


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_a_short_mixed_run_is_passed(tmp_path: Path) -> None:
    """A slow machine needs longer until every fault has had an effect; no invariant may break however long it takes."""
    for minutes in ("0.3", "1", "2"):
        verdict = _run(tmp_path / minutes, "--minutes", minutes, "--rate", "100", "--kinds", KINDS)
        assert {} == verdict["broken"], verdict["examples"]
        if verdict["verdict"] == "passed":
            break

    assert ("passed", []) == (verdict["verdict"], verdict["why"])
    assert (0, 0) == (verdict["counts"]["lost"], verdict["counts"]["doubled"])


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("words", "missing"),
    [(("--kinds", "none", "--rate", "100"), "faults"), (("--kinds", "worker.pause", "--rate", "0"), "jobs")],
    ids=["without faults", "without load"],
)
def test_a_run_that_proves_nothing_is_unknown(tmp_path: Path, words: tuple[str, ...], missing: str) -> None:
    verdict = _run(tmp_path, "--minutes", "0.05", "--servers", "1", "--workers", "1", *words)

    assert "unknown" == verdict["verdict"]
    assert any(line.startswith(f"{missing}: 0 ") for line in verdict["why"]), verdict["why"]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_run_against_an_installation_of_ones_own_is_passed(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUORRA_API_KEY", server.api_key)
    where = ("--against", server.http_url, "--grpc", server.grpc_address)

    verdict = _run(
        tmp_path, *where, "--minutes", "0.3", "--rate", "60", "--kinds", "worker.kill,net.client.reset,pg.stop"
    )

    assert ("passed", {}) == (verdict["verdict"], verdict["broken"]), (verdict["why"], verdict["examples"])
    assert {"pg.stop": "it would hurt what is not ours"} == verdict["left_out"]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_run_against_a_planted_bug_is_failed() -> None:
    (bug,) = [bug for bug in planted_bugs() if bug.name == "expire-charges-unstarted"]
    with copy_of_packages() as copy:
        plant(bug, copy)

        is_good, said = run_check("faults:worker.kill", copy, {})

    assert not is_good
    assert "expected" in said, said
