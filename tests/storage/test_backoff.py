"""The back-off in SQL and in Python is one formula, total for every number of attempts."""

import json

import pytest
from quorra_server.domain.retry import Backoff

from tests.support.queue_spec import QueueSpec

RULES = [
    Backoff(),
    Backoff("fixed", 7.5),
    Backoff("linear", 3, 100),
    Backoff("exponential", 0.5, 86_400),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
async def test_sql_and_python_agree_for_0_to_70000_attempts(queue: QueueSpec, rule: Backoff) -> None:
    policy = json.dumps({"kind": rule.kind, "base_seconds": rule.base_seconds, "max_seconds": rule.max_seconds})

    rows = await queue.pool.fetch(
        "SELECT extract(epoch FROM quorra.retry_delay(n, $1::json))::float8 AS s FROM generate_series(0, 70000) AS n",
        policy,
    )

    assert [rule.delay_seconds(n) for n in range(70_001)] == pytest.approx([row["s"] for row in rows])


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
