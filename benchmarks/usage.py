"""What the processes of a stage use."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping

import psutil

from benchmarks.figures import Figure


class Window:
    """A stretch of time, and what each role used in it."""

    def __init__(self, cpu_seconds: Callable[[], Mapping[str, float]]) -> None:
        """Begin; the call says how much CPU time each role has used so far."""
        self._cpu_seconds = cpu_seconds
        self._cpu = cpu_seconds()
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """How long ago it began."""
        return time.perf_counter() - self._began

    def figure(
        self, what: str, value: float, unit: str, *, jobs: int, seconds: float | None = None, at: float | None = None
    ) -> Figure:
        """Return a figure with the CPU time that each of so many jobs took until now.

        Args:
            seconds: How long the load lasted, where that is less than the window.
        """
        seconds = seconds or self.seconds
        used = {role: now - self._cpu[role] for role, now in self._cpu_seconds().items()}
        share = used["generator"] / (seconds * (os.cpu_count() or 1)) * 100
        cpu_us = {role: part / jobs * 1_000_000 for role, part in used.items()}
        return Figure(what, value, unit, at, cpu_us, share)


def tree_seconds(root: psutil.Process) -> float:
    """Return the CPU time of a process and all below it; those that ended are in what their parent waited for."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
    return total
