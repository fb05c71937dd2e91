"""Metrics of one process and of several: what comes from the database is said once, in the same words."""

import os
import subprocess
import sys
from pathlib import Path

# The library looks at its environment when it is imported.
PROCESS = """
from quorra_server.domain.states import JobStatus
from quorra_server.observability.metrics import Metrics
metrics = Metrics("1.0", "a")
metrics.set_queue_lengths({"old": {JobStatus.DEAD: 1}})
metrics.set_queue_lengths({"default": {JobStatus.PENDING: 3}})
metrics.oldest_waiting.set(4.5)
print(metrics.text().decode())
"""
ASKED = ("quorra_job_queue_length", "quorra_oldest_waiting_job_seconds", "quorra_build_info")
SAID = [
    "# HELP quorra_job_queue_length Jobs by queue and status",
    "# TYPE quorra_job_queue_length gauge",
    'quorra_job_queue_length{queue="default",status="pending"} 3.0',
    "# HELP quorra_oldest_waiting_job_seconds How long the oldest due job has waited",
    "# TYPE quorra_oldest_waiting_job_seconds gauge",
    "quorra_oldest_waiting_job_seconds 4.5",
    "# HELP quorra_build_info Version and name of this server",
    "# TYPE quorra_build_info gauge",
    'quorra_build_info{node="a",version="1.0"} 1.0',
]


def _asked(**environment: str) -> list[str]:
    """Return the lines of a process about what it asks the database for, or says of itself."""
    text = subprocess.run(
        [sys.executable, "-c", PROCESS], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    ).stdout
    return [line for line in text.splitlines() if any(name in line for name in ASKED)]


def test_one_process_says_what_it_asked_for() -> None:
    assert SAID == _asked()


def test_each_of_several_processes_says_it_once_and_forgets_the_others(tmp_path: Path) -> None:
    shared = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    _asked(**shared)

    assert SAID == _asked(**shared)
