"""Ids: version 7, in the order in which they were made."""

import time

import pytest
from quorra_server.domain import ids as job_ids
from quorra_server.domain.ids import new_job_id


def test_ids_are_of_version_7_unique_and_in_order() -> None:
    before = time.time_ns() // 1_000_000

    ids = [new_job_id() for _ in range(20_000)]

    assert ids == sorted(ids)
    assert len(ids) == len(set(ids))
    assert {(7, "specified in RFC 4122")} == {(made.version, made.variant) for made in ids}
    assert before <= ids[0].int >> 80 <= time.time_ns() // 1_000_000


def test_ids_stay_in_order_while_the_clock_stands_in_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: the counter of a millisecond ends, and the next millisecond begins."""
    before = new_job_id()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    monkeypatch.setattr(job_ids, "_last", job_ids._greatest - 1)

    ids = [new_job_id() for _ in range(10)]

    assert [before, *ids] == sorted([before, *ids])
    assert len(ids) == len(set(ids))
    assert {(7, "specified in RFC 4122")} == {(made.version, made.variant) for made in ids}
