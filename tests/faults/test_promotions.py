"""The short tier of promotions: in synchronous mode nothing is lost, in asynchronous mode every loss is reported."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults.promotions import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
# A busy machine promotes slowly; the long run holds the servers to three seconds.
RECOVERY_SECONDS_MAX = "15"


def _run(folder: Path, *words: str) -> dict[str, Any]:
    report = folder / "verdict.json"
    common = ("--seed", "1", "--rate", "60", "--recovery-seconds-max", RECOVERY_SECONDS_MAX)
    main(["--folder", str(folder / "run"), "--json", str(report), *common, *words])
    verdict: dict[str, Any] = json.loads(report.read_text())
    return verdict


def test_with_a_synchronous_standby_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    verdict = _run(tmp_path, "--mode", "sync", "--count", "1")

    assert ("passed", []) == (verdict["verdict"], verdict["why"]), verdict["examples"]
    assert ({"jobs": 0, "outcomes": 0}, 0) == (verdict["lost"], verdict["to_the_old"])


def test_with_an_asynchronous_standby_every_loss_is_reported(tmp_path: Path) -> None:
    verdict = _run(tmp_path, "--mode", "async", "--count", "1")

    assert ("passed", []) == (verdict["verdict"], verdict["why"]), verdict["examples"]
    assert (True, 0) == (verdict["lost"]["jobs"] > 0, verdict["silent"])
