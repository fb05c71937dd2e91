"""The heartbeat: renews leases from a thread of its own, so that a handler that blocks the loop keeps its lease."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import grpc
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub


class Renewal(Protocol):
    """Called (in the heartbeat's thread) after each answer."""

    def __call__(self, lease_ids: Sequence[str], sent_at: float, reply: pb.HeartbeatReply) -> None:
        """Take which leases were named, when the request left (monotonic seconds), and the answer."""
        ...


class Heartbeat:
    """One thread with one synchronous channel, while there is something to say."""

    def __init__(
        self,
        channel: Callable[[], grpc.Channel],
        metadata: Sequence[tuple[str, str]],
        held: Callable[[], list[str]],
        request: Callable[[list[str]], pb.HeartbeatRequest],
        renewed: Renewal,
        refused: Callable[[grpc.RpcError], None],
    ) -> None:
        """Take what to renew and whom to tell; `held` and both callbacks run in the thread."""
        self._channel = channel
        self._metadata = tuple(metadata)
        self._held = held
        self._request = request
        self._renewed = renewed
        self._refused = refused
        self._stop = threading.Event()
        self._interval_seconds = 10.0
        self._rests_when_idle = False
        self._thread = threading.Thread(target=self._run, name="quorra-heartbeat", daemon=True)

    def start(self, interval_seconds: float, *, rests_when_idle: bool) -> None:
        """Begin to beat; a later call changes how.

        Args:
            rests_when_idle: Send nothing while nothing is held or runs, once the server has heard that.
        """
        self._interval_seconds = interval_seconds
        self._rests_when_idle = rests_when_idle
        if not self._thread.is_alive() and not self._stop.is_set():
            self._thread.start()

    def stop(self) -> None:
        """Stop after the beat under way."""
        self._stop.set()

    def _run(self) -> None:
        channel: grpc.Channel | None = None
        may_rest = True
        while not self._stop.wait(self._interval_seconds):
            lease_ids = self._held()
            request = self._request(lease_ids)
            is_idle = not lease_ids and not request.running
            if is_idle and may_rest and self._rests_when_idle:
                continue
            channel = channel or self._channel()
            was_heard = self._beat(WorkerServiceStub(channel), lease_ids, request)
            may_rest = is_idle and was_heard
            # A connection that rests may be dropped on its way without a word: the next beats have one of their own.
            if not was_heard or (may_rest and self._rests_when_idle):
                channel.close()
                channel = None
        if channel is not None:
            channel.close()

    def _beat(self, stub: WorkerServiceStub, lease_ids: Sequence[str], request: pb.HeartbeatRequest) -> bool:
        """Send one, and say whether it was heard."""
        sent_at = time.monotonic()
        try:
            reply = stub.Heartbeat(request, timeout=self._interval_seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            self._refused(error)
            return False
        self._renewed(lease_ids, sent_at, reply)
        return True
