"""What the worker's handlers write down: a number of the generator's choice, and nanoseconds."""

import math
import struct
from pathlib import Path

RECORD = struct.Struct("<qq")


def read_record(path: Path) -> list[tuple[int, int]]:
    """Return what has been written so far, in order."""
    data = path.read_bytes() if path.exists() else b""
    return list(RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size]))


def percentile(sorted_values: list[float], percent: float) -> float:
    """Return the smallest value that so many per cent of the values do not exceed."""
    return sorted_values[max(0, math.ceil(len(sorted_values) * percent / 100) - 1)]
