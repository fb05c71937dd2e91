"""What payloads may be searched for, PostgreSQL can compare."""

import pytest
from quorra_server.domain.json_text import searchable_json
from quorra_server.domain.limits import Limits

from tests.support.queue_spec import QueueSpec

FARTHEST = {
    "smallest": "1e-9999",
    "largest": "1e9999",
    "finest": f"-1.{'1' * 5_998}e-9999",
    "longest": f"{'9' * 6_000}e9999",
}


@pytest.mark.parametrize("number", FARTHEST.values(), ids=FARTHEST)
async def test_the_farthest_numbers_that_are_taken_can_be_compared(queue: QueueSpec, number: str) -> None:
    wanted = searchable_json(f'{{"a":{number}}}', "payload", Limits())

    (row,) = await queue.pool.fetch("SELECT quorra.payload_contains($1::text::json, $1::text::jsonb) AS found", wanted)

    assert row["found"]
