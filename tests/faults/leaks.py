"""Looks for keys and passwords in everything that a run has said: logs of all its parts, metrics and errors."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

LOG = ".log"


def logs_below(folder: Path) -> dict[str, str]:
    """Return all logs in a folder and below it, by their paths; PostgreSQL's lies beside its data."""
    logs = {}
    # PostgreSQL may remove folders of its own meanwhile, which this passes by, as `Path.rglob` does not.
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names if name.endswith(LOG)):
            logs[str(path.relative_to(folder))] = path.read_text(errors="replace")
    return logs


def telltales(outputs: Mapping[str, str], secrets: Sequence[str]) -> list[str]:
    """Return the names of those outputs that have one of some secrets; an empty one is none."""
    known = [secret for secret in secrets if secret]
    return sorted(name for name, text in outputs.items() if any(secret in text for secret in known))
