"""Folding: appended deltas become one row for each queue, as many rounds at once as there are."""

import pytest
from quorra_server.observability.metrics import Metrics
from quorra_server.services.loops import fold_counts

from tests.support.queue_spec import QueueSpec


async def test_a_full_round_is_followed_by_the_next_at_once(queue: QueueSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that appends more deltas than it folds falls behind for ever, and counting becomes slower and slower."""
    monkeypatch.setattr(fold_counts, "DELTAS_MAX", 2)
    for name in ("a", "b", "b"):
        await queue.submit_one(queue=name)
    loop = fold_counts.FoldCounts(queue.pool, Metrics("0", "node"))

    rounds = [await loop.run_once() for _ in range(2)]

    (left,) = await queue.pool.fetch("SELECT count(*) AS deltas FROM quorra.count_deltas")
    assert [True, False] == rounds
    assert 0 == left["deltas"]


async def test_only_what_the_functions_for_sql_did_is_counted_by_the_folder(queue: QueueSpec) -> None:
    await queue.submit_one()
    await queue.enqueue()
    metrics = Metrics("0", "node")

    await fold_counts.FoldCounts(queue.pool, metrics).run_once()

    assert 1 == metrics.counted.get_sample_value("quorra_jobs_created_total", {"queue": "default"})
