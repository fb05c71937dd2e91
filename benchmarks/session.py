"""A session: scenarios run one after the other, shown live, with the raw results written down after each."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import database, machine
from benchmarks.cluster import Cluster
from benchmarks.figures import Figure, Scenario
from benchmarks.rows import FORMAT
from benchmarks.stage import Stage


def run_scenarios(scenarios: Sequence[Scenario], *, runs: int, short: bool, file: Path, console: Console) -> list[str]:
    """Run each scenario so many times on one PostgreSQL and keep every figure in a file of raw results.

    One that fails does not keep the others from running.

    Returns:
        What failed, as sentences.
    """
    with Cluster() as cluster, _progress(console) as progress:
        session = _Session(cluster, short, file, progress, len(scenarios) * runs)
        for scenario in scenarios:
            for run in range(1, runs + 1):
                session.run(scenario, run, f"{scenario.name}, run {run} of {runs}")
        return session.failures


class _Session:
    """The results so far, and where they are shown and kept."""

    def __init__(self, cluster: Cluster, short: bool, file: Path, progress: Progress, total: int) -> None:
        self.failures: list[str] = []
        self._cluster = cluster
        self._results = _header(cluster, short)
        self._file = file
        self._progress = progress
        self._task = progress.add_task("", total=total)

    def run(self, scenario: Scenario, run: int, title: str) -> None:
        """Run a scenario once and write its figures down."""
        self._say(title)
        self._progress.console.print(title, style="bold")
        try:
            self._measure(scenario, run, title)
        except Exception as error:
            self._progress.console.print_exception()
            self.failures.append(f"{title}: {error}")
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(self._results, indent=1))
        self._progress.advance(self._task)

    def _measure(self, scenario: Scenario, run: int, title: str) -> None:
        loop_ms = machine.loop_ms()
        with Stage(self._cluster, say=lambda step: self._say(f"{title}: {step}")) as stage:
            for figure in scenario.run(stage, self._results["short"]):
                loops_ms = [loop_ms, loop_ms := machine.loop_ms()]
                row = {"scenario": scenario.name, "run": run, **asdict(figure), "loops_ms": loops_ms}
                self._results["figures"].append(row)
                self._progress.console.print(f"  {_label(figure)}: {figure.value:,.5g} {figure.unit}", style="dim")

    def _say(self, what: str) -> None:
        self._progress.update(self._task, description=what)


def _label(figure: Figure) -> str:
    return figure.what if figure.at is None else f"{figure.what} (at {figure.at:,g})"


def _header(cluster: Cluster, short: bool) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "short": short,
        "machine": machine.describe(),
        "settings": machine.chosen_settings(),
        "postgresql": database.settings(cluster.admin_dsn),
        "figures": [],
    }


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
        # Drawing takes CPU from what is measured.
        refresh_per_second=2,
    )
