"""The bounds of what a client may send; each is configurable, and each has an error that names it."""

from dataclasses import dataclass, field, fields

DAY_SECONDS = 86_400
KIB, MIB, GIB = 1024, 1024**2, 1024**3


def _bound(default: int, low: int, high: int) -> int:
    """Declare a bound with its default and what it may be set to."""
    bound: int = field(default=default, metadata={"range": (low, high)})
    return bound


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on requests and reports, each set by `QUORRA_` and its name in capitals. Bytes are of UTF-8 text.

    Names are never longer, and JSON is never deeper, than the tables and their readers bear: they can only be lowered.
    """

    payload_bytes_max: int = _bound(MIB, KIB, 64 * MIB)
    result_bytes_max: int = _bound(256 * KIB, KIB, 64 * MIB)
    error_bytes_max: int = _bound(16 * KIB, 256, MIB)
    log_line_bytes_max: int = _bound(4 * KIB, 64, MIB)
    log_lines_max: int = _bound(1_000, 0, 1_000_000)
    batch_jobs_max: int = _bound(10_000, 1, 100_000)
    batch_bytes_max: int = _bound(16 * MIB, KIB, GIB)
    name_characters_max: int = _bound(255, 1, 255)
    json_depth_max: int = _bound(64, 1, 64)
    tags_max: int = _bound(32, 0, 1_000)
    tag_characters_max: int = _bound(64, 1, 255)
    retries_max: int = _bound(1_000, 0, 1_000_000)
    delay_seconds_max: int = _bound(10 * 365 * DAY_SECONDS, 0, 100 * 365 * DAY_SECONDS)
    timeout_seconds_max: int = _bound(7 * DAY_SECONDS, 1, 365 * DAY_SECONDS)
    backoff_seconds_max: int = _bound(30 * DAY_SECONDS, 1, 365 * DAY_SECONDS)
    lease_seconds_min: int = _bound(1, 1, 12 * 3_600)
    lease_seconds_max: int = _bound(12 * 3_600, 1, 7 * DAY_SECONDS)
    lease_jobs_max: int = _bound(10_000, 1, 100_000)
    page_jobs_max: int = _bound(500, 1, 10_000)
    head_bytes_max: int = _bound(8 * KIB, KIB, 16 * KIB)
    bodies_bytes_max: int = _bound(64 * MIB, MIB, 64 * GIB)
    http_connections_max: int = _bound(1_000, 1, 1_000_000)
    http_connections_per_address_max: int = _bound(50, 0, 1_000_000)
    streams_per_key_max: int = _bound(1_000, 1, 1_000_000)

    def named(self, name: str) -> str:
        """Return a bound as errors state it: its value and the setting that moves it."""
        return f"{getattr(self, name):,} ({setting_of(name)})"


def setting_of(name: str) -> str:
    """Return the name of the setting that moves a bound."""
    return f"QUORRA_{name.upper()}"


# What each bound may be set to, lowest and highest.
RANGES: dict[str, tuple[int, int]] = {bound.name: bound.metadata["range"] for bound in fields(Limits)}
