"""Ids: version 7, in the order in which they were made."""

import time

from quorra_server.domain.ids import new_job_id


def test_ids_are_of_version_7_unique_and_in_order() -> None:
    before = time.time_ns() // 1_000_000

    ids = [new_job_id() for _ in range(20_000)]

    assert ids == sorted(ids)
    assert len(ids) == len(set(ids))
    assert {(7, "specified in RFC 4122")} == {(made.version, made.variant) for made in ids}
    assert before <= ids[0].int >> 80 <= time.time_ns() // 1_000_000
