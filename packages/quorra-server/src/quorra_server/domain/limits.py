"""The bounds of what a client may send; each is configurable, and each has an error that names it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on submissions and reports. Bytes are of UTF-8 text."""

    payload_bytes_max: int = 1024 * 1024
    result_bytes_max: int = 256 * 1024
    batch_jobs_max: int = 10_000
    batch_bytes_max: int = 16 * 1024 * 1024
    name_characters_max: int = 255
    json_depth_max: int = 64
    tags_max: int = 32
    tag_characters_max: int = 64
    retries_max: int = 1_000
    delay_seconds_max: int = 10 * 365 * 86_400
    timeout_seconds_max: int = 7 * 86_400
    backoff_seconds_max: int = 30 * 86_400
    page_jobs_max: int = 500
    bodies_bytes_max: int = 64 * 1024 * 1024
    http_connections_max: int = 1_000
    http_connections_per_address_max: int = 50
    streams_per_key_max: int = 1_000
