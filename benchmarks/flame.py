"""Flame graphs: `hatch run bench flame NAME`; one SVG for each server and worker of a scenario, to open in a browser.

The sampler (py-spy) looks at the processes from outside, so they run as they are. It needs the right to do so: root, or
a kernel that lets a user trace their own processes.
"""

import argparse
import subprocess
from pathlib import Path

from rich.console import Console

from benchmarks.cluster import Cluster
from benchmarks.scenarios import SCENARIOS
from benchmarks.stage import BIN, STOP_SECONDS_MAX, Stage

FOLDER = Path(__file__).resolve().parent / "results"
SAMPLES_PER_SECOND = 200


def main(arguments: list[str]) -> int:
    """Run a scenario once under the sampler and write the graphs."""
    parser = argparse.ArgumentParser(prog="bench flame", description=__doc__)
    parser.add_argument("scenario", choices=list(SCENARIOS), metavar="NAME", help=f"of: {', '.join(SCENARIOS)}")
    parser.add_argument("--short", action="store_true", help="a small run, to see that everything runs")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where to put them (benchmarks/results/flame-NAME)")
    options = parser.parse_args(arguments)
    sampler = Sampler(options.to or FOLDER / f"flame-{options.scenario}")
    console = Console()
    with console.status(options.scenario) as status, Cluster() as cluster:
        with Stage(cluster, status.update, sampler.watch) as stage:
            for figure in SCENARIOS[options.scenario].run(stage, options.short):
                console.print(f"  {figure.what}: {figure.value:,.5g} {figure.unit}", style="dim")
        graphs = sampler.finish()
    if not graphs:
        console.print("py-spy wrote no graph; what it says stands above")
        return 1
    for graph in graphs:
        console.print(graph, soft_wrap=True)
    return 0


class Sampler:
    """One sampler for each process that is started; it ends with the process and then writes its graph."""

    def __init__(self, folder: Path) -> None:
        """Take where the graphs go."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._running: list[tuple[Path, subprocess.Popen[bytes]]] = []

    def watch(self, role: str, pid: int) -> None:
        """Begin to sample a process."""
        graph = self._folder / f"{len(self._running) + 1}-{role}.svg"
        graph.unlink(missing_ok=True)
        # Nonblocking: the process is not paused for each sample, which costs a few samples and no speed.
        options = ["--nonblocking", "--rate", str(SAMPLES_PER_SECOND), "--output", str(graph)]
        command = [str(BIN / "py-spy"), "record", *options, "--pid", str(pid)]
        self._running.append((graph, subprocess.Popen(command, stdout=subprocess.DEVNULL)))

    def finish(self) -> list[Path]:
        """Wait for the graphs and return them."""
        for _, sampler in self._running:
            sampler.wait(STOP_SECONDS_MAX)
        return [graph for graph, _ in self._running if graph.exists()]
