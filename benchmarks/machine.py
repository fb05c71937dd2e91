"""What was measured on, with what, and how noisy it was."""

import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

from quorra_server import embedded

from benchmarks.cluster import POSTGRES_SETTINGS
from benchmarks.load import ROOT
from benchmarks.stage import LEASE_SECONDS, SLOTS

LOOP_ROUNDS = 1_000_000
PACKAGES = ("quorra-server", "quorra-worker-sdk", "quorra-proto", "asyncpg", "grpcio", "protobuf", "sanic", "uvloop")


def loop_ms() -> float:
    """Return how long a small loop takes: how much it differs between two moments is how noisy the machine was."""
    began = time.perf_counter()
    total = 0
    for number in range(LOOP_ROUNDS):
        total += number
    return (time.perf_counter() - began) * 1000


def describe() -> dict[str, str]:
    """Return the machine and the versions."""
    return {
        "CPUs": str(os.cpu_count()),
        "CPU": _cpu_model(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "commit": _commit(),
        **{name: version(name) for name in PACKAGES},
    }


def summary() -> str:
    """Return in one line what the figures were measured on."""
    return f"{os.cpu_count()} CPUs, Python {platform.python_version()}, PostgreSQL {embedded.find_binaries().version}"


def chosen_settings() -> dict[str, str]:
    """Return what the benchmarks set; everything else is as shipped."""
    return {
        "worker": f"slots={SLOTS}, lease_ttl={LEASE_SECONDS} s, prefetch as shipped, uvloop",
        "server": "as shipped, one process; log level warning, no bound on connections of one address",
        "PostgreSQL": ", ".join(f"{name}={value}" for name, value in POSTGRES_SETTINGS.items()),
    }


def _commit() -> str:
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    return said.stdout.strip() or "unknown"


def _cpu_model() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()
