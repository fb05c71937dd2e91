"""docs/errors.md is complete: every code with its statuses and an example."""

import json
import re
from pathlib import Path

import pytest
from quorra_server.domain.errors import QuorraError
from quorra_server.transports.status import STATUS

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
EXAMPLES = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]


@pytest.mark.parametrize("error", STATUS, ids=lambda error: error.code)
def test_a_code_is_documented_with_its_statuses_and_an_example(error: type[QuorraError]) -> None:
    status = STATUS[error]

    assert f"| `{error.code}` | {status.http} | {status.grpc.name} |" in PAGE
    (example,) = [found for found in EXAMPLES if found["code"] == error.code]
    assert (f"urn:quorra:problem:{error.code}", error.title, status.http) == (
        example["type"],
        example["title"],
        example["status"],
    )


def test_every_error_has_a_status() -> None:
    def all_below(kind: type[QuorraError]) -> set[type[QuorraError]]:
        return {kind}.union(*(all_below(child) for child in kind.__subclasses__()))

    assert all_below(QuorraError) == set(STATUS)
