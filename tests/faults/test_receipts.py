"""A worker of a fault run writes down which of its reports got a receipt, and which were refused."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import quorra_worker_sdk.worker
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_worker_sdk.endings import Success

from tests.faults.history import History
from tests.faults.receipts import NotingSession, note_receipts


class Deaf:
    """A worker that takes whatever it is told."""

    def connected(self, welcome: pb.Welcome) -> None: ...

    def jobs_arrived(self, jobs: Sequence[pb.Job]) -> None: ...

    def leases_ended(self, ended: Iterable[pb.LeaseEnded]) -> None: ...

    def reports_refused(self, refused: Sequence[pb.Refused]) -> None: ...


@pytest.fixture
async def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NotingSession:
    # The worker's own session is put back after the test.
    monkeypatch.setattr(quorra_worker_sdk.worker, "Session", NotingSession)
    note_receipts(History(tmp_path, "worker"))
    return NotingSession(lambda: grpc.aio.insecure_channel("localhost:1"), (), pb.Hello, Deaf())


async def test_a_report_whose_receipt_arrives_is_written_down_by_kind(session: NotingSession, tmp_path: Path) -> None:
    session.report(Success(lease_id="a"))
    session.report(pb.Failed(lease_id="b"))
    session._flush()

    session._take_receipts(pb.Receipts(sequence=1))

    assert [({"succeeded": ["a"], "failed": ["b"]}, [])] == _receipted(tmp_path)


async def test_a_report_that_is_not_covered_yet_is_not_written_down(session: NotingSession, tmp_path: Path) -> None:
    session.report(Success(lease_id="a"))
    session._flush()
    session.report(Success(lease_id="b"))
    session._flush()

    session._take_receipts(pb.Receipts(sequence=1))

    assert [({"succeeded": ["a"]}, [])] == _receipted(tmp_path)


async def test_a_refusal_that_comes_before_the_receipt_of_its_report_is_kept(
    session: NotingSession, tmp_path: Path
) -> None:
    session.report(Success(lease_id="a"))
    session._flush()
    refusal = pb.Refused(lease_id="a", reason=pb.REFUSAL_REASON_LEASE_LOST)

    session._take_receipts(pb.Receipts(sequence=0, refused=[refusal]))
    session._take_receipts(pb.Receipts(sequence=1))

    assert [({}, [["a", "succeeded", "REFUSAL_REASON_LEASE_LOST"]])] == _receipted(tmp_path)


async def test_the_worker_of_a_process_talks_in_a_session_that_notes_receipts(session: NotingSession) -> None:
    """Without it a fault run would have no receipts to judge."""
    assert NotingSession is vars(quorra_worker_sdk.worker)["Session"]


def _receipted(folder: Path) -> list[tuple[dict[str, list[str]], list[Any]]]:
    (path,) = folder.glob("worker-*.jsonl")
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    return [(line["accepted"], line["refused"]) for line in lines]
