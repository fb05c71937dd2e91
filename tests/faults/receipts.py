"""Receipts in a worker's history: which reports the server said are durable, and which it refused.

The SDK keeps receipts to itself, so a worker of a fault run holds its conversation in a session that writes them down
first. What it says and hears is the SDK's own.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import quorra_worker_sdk.worker
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_worker_sdk.session import Session

from tests.faults.history import History

KINDS = ("succeeded", "failed", "released", "snoozed", "cancelled")


class NotingSession(Session):
    """A session that writes down what a receipt says, before the worker forgets the reports that it is for."""

    history: ClassVar[History]

    def __init__(self, *arguments: Any) -> None:
        """Take what the SDK's own takes."""
        super().__init__(*arguments)
        # A refusal may come in an earlier receipt than the one that covers its report.
        self._reasons: dict[str, str] = {}

    def _take_receipts(self, receipts: pb.Receipts) -> None:
        for entry in receipts.refused:
            self._reasons[entry.lease_id] = pb.RefusalReason.Name(entry.reason)
        accepted: dict[str, list[str]] = {}
        refused = []
        for kind, lease_id in self._covered_by(receipts):
            reason = self._reasons.pop(lease_id, None)
            if reason is None:
                accepted.setdefault(kind, []).append(lease_id)
            else:
                refused.append((lease_id, kind, reason))
        if accepted or refused:
            self.history.write("receipted", accepted=accepted, refused=refused)
        super()._take_receipts(receipts)

    def _covered_by(self, receipts: pb.Receipts) -> Iterator[tuple[str, str]]:
        """Yield the kinds and the leases of all reports up to a receipt's number."""
        for sequence, message in self._unreceipted.items():
            if sequence <= receipts.sequence:
                for kind in KINDS:
                    for entry in getattr(message.reports, kind):
                        yield kind, entry.lease_id


def note_receipts(history: History) -> None:
    """Let the workers of this process write their receipts into a history."""
    NotingSession.history = history
    # The worker has no place to hand a session in, and needs none but for this.
    quorra_worker_sdk.worker.Session = NotingSession  # type: ignore[attr-defined, assignment]
