"""libfaketime, where it is installed: processes under it believe in another time."""

import shutil
from pathlib import Path


def faketime() -> str | None:
    """Return the library's path; None where it is not installed (Debian: faketime)."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    return str(found[0]) if found and shutil.which("faketime") else None


def under_faketime(library: str, **settings: str) -> dict[str, str]:
    """Return the environment of a process with a clock of its own; pauses go by the real one, which nobody steps."""
    return {"LD_PRELOAD": library, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1", **settings}
