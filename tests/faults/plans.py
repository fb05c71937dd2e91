"""What the jobs of a fault run are: seeded, so that two runs with one seed submit the same kinds of work."""

import os
import random
import time
from typing import Any
from uuid import UUID

# Letters of tests/faults/work.py with their weights.
PLANS = {
    "o": 80.0,
    "s": 5.0,
    "fo": 4.0,
    "ffo": 2.0,
    "fsf": 1.0,
    "ffff": 1.5,
    "zo": 1.0,
    "ro": 1.0,
    "c": 0.5,
    "d": 0.5,
    "l": 0.2,
    "b": 0.1,
}
BACKOFFS: tuple[dict[str, Any] | None, ...] = (
    None,
    {"kind": "fixed", "base_seconds": 0.3},
    {"kind": "fixed", "base_seconds": 0.1},
    {"kind": "linear", "base_seconds": 0.25},
    {"kind": "exponential", "base_seconds": 0.2, "max_seconds": 1.5},
)
# A queue that has a worker to itself, which keeps up: its new jobs are handed over by the commit that records them.
QUICK_QUEUE = "quick"
# Jobs of this type are left to plain clients, which are hostile, and slower than workers.
PLAIN_SHARE = 0.03
DELAYED_SHARE = 0.05
UNIQUE_KEYS = 40


def new_id() -> str:
    """Return a UUID of version 7 of the client's own."""
    value = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10), "big")
    return str(UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62))


def new_job(dice: random.Random) -> dict[str, Any]:
    """Return a job as REST takes it, without id or key; its token is in the payload."""
    token = f"{dice.getrandbits(64):016x}"
    is_plain = dice.random() < PLAIN_SHARE
    plan = dice.choices(list(PLANS), list(PLANS.values()))[0]
    job: dict[str, Any] = {
        "type": "plain" if is_plain else "work",
        "queue": dice.choice(("default", "default", "bulk")),
        "payload": {"token": token, "plan": plan},
        "priority": dice.randint(-2, 2),
        "max_retries": dice.choice((0, 1, 3, 3, 3)),
    }
    backoff = dice.choice(BACKOFFS)
    if backoff is not None:
        job["backoff"] = backoff
    if dice.random() < DELAYED_SHARE:
        job["delay_seconds"] = job["payload"]["delay"] = dice.randint(1, 4)
    return job


def new_quick_job(dice: random.Random) -> dict[str, Any]:
    """Return a job that may be handed over: due at once, for the worker that waits for such jobs."""
    job = new_job(dice)
    job |= {"type": "work", "queue": QUICK_QUEUE}
    job.pop("delay_seconds", None)
    job["payload"].pop("delay", None)
    return job
