"""Histories: what a client did and what it was told, one JSON object a line, on disk before the client goes on."""

import json
import os
import time
from pathlib import Path
from typing import Any


class History:
    """Appends lines to a file of its own; a line that was written survives the death of its process."""

    def __init__(self, folder: Path, name: str) -> None:
        """Open `folder/name-PID.jsonl`."""
        path = folder / f"{name}-{os.getpid()}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, event: str, **fields: Any) -> None:
        """Write one line with the time (seconds since the epoch)."""
        line = json.dumps({"event": event, "at": time.time(), **fields}, separators=(",", ":"))
        os.write(self._file, line.encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
