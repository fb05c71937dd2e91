"""The bounds of the queue of tests are the server's own: each side is asked the same."""

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_server.domain import errors as server_errors
from quorra_server.domain.limits import Limits
from quorra_server.domain.validation import parse_id, validate_job, validate_reason
from quorra_server.transports.grpc import convert
from quorra_worker_sdk import QuorraError, testing_bounds
from quorra_worker_sdk.testing_bounds import DELAY_SECONDS_MAX, PAYLOAD_BYTES_MAX, TIMEOUT_SECONDS_MAX


def _seconds_ahead(seconds: float) -> dict[str, Any]:
    return {"run_at": NOW + timedelta(seconds=seconds)}


def _nested(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


NOW = datetime.now(UTC)
DELAY_MS_MAX = DELAY_SECONDS_MAX * 1000
TIMEOUT_MS_MAX = TIMEOUT_SECONDS_MAX * 1000
ID = "019ab3f0-7c1e-7000-8000-000000000000"
# What submissions say beside a good type and payload, on both sides of each bound.
SPECS: tuple[dict[str, Any], ...] = (
    {}, {"type": ""},
    {"type": "x" * 255}, {"type": "x" * 256},
    {"queue": "é b"}, {"queue": "a\nb"}, {"queue": "q\n" * 300}, {"queue": "\u00ad"},
    {"id": ID.upper()}, {"id": "nope"}, {"id": ID.replace("-", "")}, {"id": f"{{{ID}}}"},
    {"max_retries": 1_000}, {"max_retries": 1_001}, {"max_retries": -1},
    {"delay_ms": DELAY_MS_MAX}, {"delay_ms": DELAY_MS_MAX + 1}, {"delay_ms": -1},
    {"timeout_ms": TIMEOUT_MS_MAX}, {"timeout_ms": TIMEOUT_MS_MAX + 1}, {"timeout_ms": -1},
    _seconds_ahead(60), {**_seconds_ahead(60), "delay_ms": 1},
    {"run_at": datetime(2000, 1, 1, tzinfo=UTC)}, {"run_at": datetime(1999, 12, 31, tzinfo=UTC)},
    # Far enough from the bound of a day for a test that runs long after this is read.
    _seconds_ahead(DELAY_SECONDS_MAX + 70_000), _seconds_ahead(DELAY_SECONDS_MAX + 100_000),
    {"unique_key": "k" * 255}, {"unique_key": "k" * 256}, {"unique_key": "\0"},
    {"tags": ["t"] * 32}, {"tags": ["t"] * 33}, {"tags": ["t" * 64]}, {"tags": ["t" * 65]}, {"tags": ["a", ""]},
    {"backoff": pb.Backoff()}, {"backoff": pb.Backoff(kind="random")},
    {"backoff": pb.Backoff(base_seconds=0.001)}, {"backoff": pb.Backoff(base_seconds=0.0009)},
    {"backoff": pb.Backoff(max_seconds=2_592_000)}, {"backoff": pb.Backoff(max_seconds=2_592_001)},
    {"backoff": pb.Backoff(jitter=1)}, {"backoff": pb.Backoff(jitter=1.1)}, {"backoff": pb.Backoff(jitter=math.nan)},
    {"payload": b' {"a": [1e400, "\\ud83d\\ude00", "\\\\u0000"], "a": {}}'}, {"payload": b""}, {"payload": b"[1]"},
    {"payload": b'{"a":"\\u0000"}'}, {"payload": b'{"\\u0000":1}'}, {"payload": b'{"a":"\\u0000","a":1}'},
    {"payload": b'{"a":"\\ud800"}'}, {"payload": b'{"a":"\xff"}'}, {"payload": b'{"a":NaN}'}, {"payload": b'{"a":1'},
    {"payload": '{"a":1}'.encode("utf-16")}, {"payload": b'{"a":"\n"}'}, {"payload": b'\xef\xbb\xbf{}'},
    {"payload": _nested(64)}, {"payload": _nested(65)}, {"payload": _nested(100_000)},
    {"payload": b"{}" + b" " * (PAYLOAD_BYTES_MAX - 2)}, {"payload": b"{}" + b" " * (PAYLOAD_BYTES_MAX - 1)},
    {"type": "", "payload": b"", "queue": "\n", "id": "nope"},
)  # fmt: skip


def _refusal(check: Callable[[], object]) -> tuple[str, str | None] | None:
    """Return the code and the field of what a check raises; None if it raises nothing."""
    try:
        check()
    except (QuorraError, server_errors.QuorraError) as error:
        return error.code, error.field
    return None


@pytest.mark.parametrize("fields", SPECS, ids=lambda fields: repr(fields)[:40])
def test_what_the_server_refuses_is_refused_in_tests(fields: dict[str, Any]) -> None:
    spec = pb.JobSpec(**{"type": "t", "payload": b"{}", **fields})

    by_server = _refusal(lambda: validate_job(convert.draft(spec, path="job."), Limits(), path="job."))
    by_test = _refusal(lambda: testing_bounds.check_job(spec, "job.", NOW))

    assert by_server == by_test


@pytest.mark.parametrize("key", ["k" * 255, "k" * 256, "a\nb"])
def test_idempotency_keys_that_the_server_refuses_are_refused_in_tests(key: str) -> None:
    spec = pb.JobSpec(type="t", payload=b"{}")

    by_server = _refusal(lambda: validate_job(convert.draft(spec, key, path="job."), Limits(), path="job."))

    assert by_server == _refusal(lambda: testing_bounds.check_job(spec, "job.", NOW, key))


@pytest.mark.parametrize("text", ["", "x" * 1_000, "x" * 1_001, "a\0b"])
def test_reasons_that_the_server_refuses_are_refused_in_tests(text: str) -> None:
    assert _refusal(lambda: validate_reason(text)) == _refusal(lambda: testing_bounds.check_reason(text))


@pytest.mark.parametrize("text", ["", ID, ID.upper(), "nope"])
def test_ids_that_the_server_refuses_are_refused_in_tests(text: str) -> None:
    assert _refusal(lambda: parse_id(text)) == _refusal(lambda: testing_bounds.check_id(text))


def test_the_bounds_of_tests_are_the_defaults_of_the_server() -> None:
    names = [
        "payload_bytes_max", "batch_jobs_max", "name_characters_max", "json_depth_max", "tags_max",
        "tag_characters_max", "retries_max", "delay_seconds_max", "timeout_seconds_max", "backoff_seconds_max",
    ]  # fmt: skip

    ours = {name: getattr(testing_bounds, name.upper()) for name in names}

    assert {name: getattr(Limits(), name) for name in names} == ours
