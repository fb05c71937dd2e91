"""An import whose chunk met an outage: nothing is sent again that may be recorded."""

from types import SimpleNamespace
from typing import Any

import pytest
from quorra_server.domain.errors import KeyReused, OutcomeUnknown, QuorraError
from quorra_server.domain.ids import new_job_id
from quorra_server.domain.job import NewJob
from quorra_server.transports.rest import jobs


@pytest.mark.parametrize(
    ("error", "submissions"),
    [(OutcomeUnknown("no answer came"), 1), (KeyReused("that id is another job's"), 3)],
    ids=["an outage is the caller's to repeat", "a refused line is looked for"],
)
async def test_a_chunk_is_taken_apart_only_to_find_a_refused_line(error: QuorraError, submissions: int) -> None:
    submitted: list[int] = []

    async def submit_jobs(chunk: list[NewJob], _: str) -> Any:
        submitted.append(len(chunk))
        raise error

    service = SimpleNamespace(submit_jobs=submit_jobs)
    call: Any = SimpleNamespace(server=SimpleNamespace(services=SimpleNamespace(submit=service)), principal="p")
    lines = [(number, NewJob(id=new_job_id(), type="t", payload="{}")) for number in (1, 2)]

    answers = await jobs._submit_lines(call, lines)

    assert submissions == len(submitted)
    assert [error.code] * 2 == [answer["error"]["code"] for answer in answers.values()]
