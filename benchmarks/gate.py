"""The gate of workers that begin together: each says that it has started, and waits until all have."""

import os
import time
from pathlib import Path


def wait_at_gate() -> None:
    """Wait at the gate that the stage names, if it names one."""
    if gate := os.environ.get("BENCH_GATE"):
        Path(gate).with_suffix(f".{os.getpid()}").touch()
        while not Path(gate).exists():
            time.sleep(0.005)
