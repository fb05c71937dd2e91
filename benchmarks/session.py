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
from benchmarks.stage import Stage

FORMAT = 1


def run_scenarios(scenarios: Sequence[Scenario], *, runs: int, short: bool, file: Path, console: Console) -> None:
    """Run each scenario so many times on one PostgreSQL and keep every figure in a file of raw results."""
    with Cluster() as cluster, _progress(console) as progress:
        results = _header(cluster, short)
        task = progress.add_task("", total=len(scenarios) * runs)
        for scenario in scenarios:
            for run in range(1, runs + 1):
                title = f"{scenario.name}, run {run} of {runs}"
                _run(scenario, run, cluster, results, title, progress)
                _write(results, file)
                progress.advance(task)


def _run(
    scenario: Scenario, run: int, cluster: Cluster, results: dict[str, Any], title: str, progress: Progress
) -> None:
    task = progress.tasks[0].id
    progress.update(task, description=title)
    progress.console.print(title, style="bold")
    loop_ms = machine.loop_ms()
    with Stage(cluster, say=lambda step: progress.update(task, description=f"{title}: {step}")) as stage:
        for figure in scenario.run(stage, results["short"]):
            loops_ms = [loop_ms, loop_ms := machine.loop_ms()]
            results["figures"].append({"scenario": scenario.name, "run": run, **asdict(figure), "loops_ms": loops_ms})
            progress.console.print(f"  {_label(figure)}: {figure.value:,.5g} {figure.unit}", style="dim")


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


def _write(results: dict[str, Any], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1))


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
    )
