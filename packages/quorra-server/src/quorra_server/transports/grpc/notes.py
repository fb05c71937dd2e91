"""What handlers say while they run - progress, checkpoints, log lines - kept beside their jobs."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Sequence

import structlog
from quorra_proto.v1 import quorra_pb2 as pb

from quorra_server.domain.errors import InvalidRequest, PayloadTooLarge, QuorraError
from quorra_server.domain.job import LeaseId
from quorra_server.domain.limits import Limits
from quorra_server.observability.logging import log_trouble
from quorra_server.services.lease_ids import decode_lease_id
from quorra_server.storage import history
from quorra_server.storage.database import Pool
from quorra_server.storage.history import LogLine, Note
from quorra_server.transports.grpc import convert

log = structlog.get_logger(__name__)

LEVEL_BYTES_MAX = 20


class Notes:
    """Keeps what is said on one stream."""

    def __init__(self, pool: Pool, worker: str, principal: str, limits: Limits) -> None:
        """Take where to write, who speaks (a lease hears its own principal only), and how much is kept of it."""
        self._pool = pool
        self._worker = worker
        self._principal = principal
        self._limits = limits
        self._writes: set[asyncio.Task[None]] = set()
        self._lines: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))

    def keep(self, message: pb.Reports) -> None:
        """Begin to write what a message says; of it, what cannot be read is not kept, for it decides nothing."""
        write = asyncio.create_task(self._write(self._read_notes(message), self._read_lines(message.logs)))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)

    async def kept(self) -> None:
        """Wait until what was said is written: once its run has ended, a lease is heard no more."""
        if self._writes:
            await asyncio.wait(list(self._writes))

    def forget(self, batch: int) -> None:
        """Forget a lease batch all of whose runs ended."""
        self._lines.pop(batch, None)

    async def _write(self, notes: dict[LeaseId, Note], lines: list[LogLine]) -> None:
        try:
            if notes:
                await history.note_progress(self._pool, self._principal, notes)
            if lines:
                await history.append_logs(self._pool, self._principal, lines)
        except QuorraError as error:
            log_trouble(log, "notes_not_kept", error, worker=self._worker)

    def _read_notes(self, message: pb.Reports) -> dict[LeaseId, Note]:
        notes: dict[LeaseId, Note] = {}
        for entry in message.progress:
            with contextlib.suppress(InvalidRequest):
                notes[decode_lease_id(entry.lease_id)] = Note(
                    progress_done=entry.done,
                    progress_total=entry.total,
                    progress_note=convert.readable(entry.note, self._limits.error_bytes_max),
                )
        for point in message.checkpoints:
            try:
                lease = decode_lease_id(point.lease_id)
                checkpoint = convert.json_text(point.value, "checkpoint", self._limits)
            except (InvalidRequest, PayloadTooLarge) as error:
                log_trouble(log, "checkpoint_not_kept", error, worker=self._worker, lease_id=point.lease_id)
                continue
            said = notes.get(lease, Note())
            notes[lease] = Note(checkpoint, said.progress_done, said.progress_total, said.progress_note)
        return notes

    def _read_lines(self, entries: Sequence[pb.LogLine]) -> list[LogLine]:
        lines = []
        for entry in entries:
            with contextlib.suppress(InvalidRequest):
                lease = decode_lease_id(entry.lease_id)
                position = entry.position or self._next_position(lease)
                if 0 < position <= self._limits.log_lines_max:
                    text = convert.readable(entry.message, self._limits.log_line_bytes_max)
                    ago_ms, level = convert.milliseconds(entry.ago_ms), convert.readable(entry.level, LEVEL_BYTES_MAX)
                    lines.append(LogLine(lease, position, ago_ms, level, text))
        return lines

    def _next_position(self, lease: LeaseId) -> int:
        """Number a line of a worker that does not number them itself."""
        of_batch = self._lines[lease.batch]
        of_batch[lease.ordinal] += 1
        return of_batch[lease.ordinal]
