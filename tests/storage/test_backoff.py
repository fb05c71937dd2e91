"""The back-off: exactly what is documented for every rule, total for every number of attempts."""

import json
from dataclasses import asdict
from itertools import accumulate

import pytest
from quorra_server.domain.retry import Backoff

from tests.support.queue_spec import QueueSpec

ATTEMPTS_MAX = 70_000
RULES = {
    "default": Backoff(),
    "fixed": Backoff("fixed", 7.5),
    "linear": Backoff("linear", 3, 100),
    "exponential": Backoff("exponential", 0.5, 86_400),
    "from the shortest to the longest that a server can allow": Backoff("exponential", 0.001, 365 * 86_400),
}


def documented_seconds(rule: Backoff) -> list[float]:
    """Return the delay after 0, 1, 2 ... runs: each twice the one before, not longer than the longest.

    Doubled, and not raised to a power: no cap of an exponent can hide in it.
    """
    if rule.kind == "exponential":
        delays = accumulate(range(ATTEMPTS_MAX), lambda delay, _: delay * 2, initial=rule.base_seconds / 2)
        return [min(delay, rule.max_seconds) for delay in delays]
    steps = range(ATTEMPTS_MAX + 1) if rule.kind == "linear" else [1] * (ATTEMPTS_MAX + 1)
    return [min(rule.base_seconds * step, rule.max_seconds) for step in steps]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
async def test_every_delay_for_0_to_70000_attempts_is_the_documented_one(queue: QueueSpec, rule: Backoff) -> None:
    rows = await queue.pool.fetch(
        "SELECT extract(epoch FROM quorra.retry_delay(n, $1::json))::float8 AS s FROM generate_series(0, $2::int) AS n",
        json.dumps(asdict(rule)),
        ATTEMPTS_MAX,
    )

    assert documented_seconds(rule) == pytest.approx([row["s"] for row in rows])


async def test_an_exponential_delay_grows_up_to_the_longest_of_its_rule(queue: QueueSpec) -> None:
    """It stayed at 2,048 times the base, whatever the rule said."""
    rows = await queue.pool.fetch(
        "SELECT extract(epoch FROM quorra.retry_delay(n, $1::json))::int AS s FROM generate_series(12, 18) AS n",
        '{"kind": "exponential", "base_seconds": 1, "max_seconds": 86400}',
    )

    assert [2_048, 4_096, 8_192, 16_384, 32_768, 65_536, 86_400] == [row["s"] for row in rows]


async def test_a_missing_policy_is_the_documented_default(queue: QueueSpec) -> None:
    rows = await queue.pool.fetch(
        "SELECT extract(epoch FROM quorra.retry_delay(n, NULL))::int AS s FROM generate_series(1, 13) AS n"
    )

    assert [row["s"] for row in rows] == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600]


async def test_jitter_only_shortens(queue: QueueSpec) -> None:
    rows = await queue.pool.fetch(
        "SELECT extract(epoch FROM quorra.retry_delay(3, $1::json))::float8 AS s FROM generate_series(1, 200)",
        '{"jitter": 0.5}',
    )

    delays = [row["s"] for row in rows]
    assert 4 <= min(delays) <= max(delays) <= 8
    assert len(set(delays)) > 100
