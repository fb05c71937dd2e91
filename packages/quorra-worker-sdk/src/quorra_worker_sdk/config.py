"""Settings of a worker, from the environment; what is given in code wins."""

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

UNITS_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
# Visible ASCII, with spaces inside only: what gRPC and every proxy carry as it is.
_KEY = re.compile(r"[!-~](?:[ -~]*[!-~])?")


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """How a worker reaches the server and how much it takes.

    Attributes:
        worker_id: Unique per process: a name, made so by a random part.
        slots: Jobs that run at the same time.
    """

    address: str
    api_key: str = field(repr=False)
    worker_id: str
    queues: tuple[str, ...]
    slots: int
    lease_ttl_seconds: int


def load(environment: Mapping[str, str] | None = None) -> WorkerConfig:
    """Read `QUORRA_GRPC_ADDR`, `QUORRA_API_KEY` and the `QUORRA_WORKER_*` variables.

    Raises:
        ValueError: One of them cannot be read; the message names it and the remedy.
    """
    given = os.environ if environment is None else environment
    slots = given.get("QUORRA_WORKER_MAX_JOBS") or "5"
    if not slots.isascii() or not slots.isdigit() or not 1 <= int(slots) <= 10_000:
        raise ValueError(f"QUORRA_WORKER_MAX_JOBS={slots!r}: use a whole number from 1 to 10000")
    queues = tuple(filter(None, map(str.strip, (given.get("QUORRA_WORKER_QUEUES") or "default").split(","))))
    if not queues:
        raise ValueError(f"QUORRA_WORKER_QUEUES={given['QUORRA_WORKER_QUEUES']!r}: name a queue, such as default,email")
    lease_ttl = given.get("QUORRA_WORKER_LEASE_TTL") or "30s"
    lease_ttl_seconds = round(duration(lease_ttl, "QUORRA_WORKER_LEASE_TTL"))
    if lease_ttl_seconds < 1:
        raise ValueError(f"QUORRA_WORKER_LEASE_TTL={lease_ttl!r}: use one second or more")
    return WorkerConfig(
        address=given.get("QUORRA_GRPC_ADDR") or "localhost:50051",
        api_key=api_key_of(given.get("QUORRA_API_KEY", ""), "QUORRA_API_KEY"),
        worker_id=unique_id(given.get("QUORRA_WORKER_ID") or "worker-1"),
        queues=queues,
        slots=int(slots),
        lease_ttl_seconds=lease_ttl_seconds,
    )


def api_key_of(text: str, name: str) -> str:
    """Return an API key without the end of its line, which it often has from a file or a Kubernetes secret.

    Raises:
        ValueError: No call can carry it; the message names it, and does not show it.
    """
    key = text.strip()
    if key and not _KEY.fullmatch(key):
        raise ValueError(f"{name}: use visible ASCII characters on one line; look at the secret that the key is from")
    return key


def unique_id(name: str) -> str:
    """Return a worker's name made unique for this process."""
    return f"{name}-{secrets.token_hex(4)}"


def duration(text: str, name: str) -> float:
    """Return the seconds of a text such as `500ms`, `30s` or `5m`.

    Raises:
        ValueError: It cannot be read; the message names it.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)?", text, re.ASCII)
    if match is None:
        raise ValueError(f"{name}={text!r}: use a number with a unit, such as 500ms, 30s or 5m")
    return float(match[1]) * UNITS_SECONDS[match[2] or "s"]
