"""Errors of the server, as classes of the same name, and errors of the SDK itself."""

import json
from typing import Any

import grpc


class QuorraError(Exception):
    """Base of everything that the server refuses.

    Attributes:
        code: The stable code, such as `job_not_found`.
        field: The field that is wrong, if one is.
    """

    code = "internal"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        """Take the server's sentence."""
        super().__init__(message)
        self.message = message
        self.field = field


class InvalidRequest(QuorraError):
    """The request cannot be accepted as it stands."""

    code = "invalid_request"


class Unauthenticated(QuorraError):
    """The API key is missing or wrong."""

    code = "unauthenticated"


class Forbidden(QuorraError):
    """The key may not do this."""

    code = "forbidden"


class JobNotFound(QuorraError):
    """No job has this id."""

    code = "job_not_found"


class QueueNotFound(QuorraError):
    """There is no such queue."""

    code = "queue_not_found"


class Conflict(QuorraError):
    """The state of things forbids it."""

    code = "conflict"


class IllegalTransition(Conflict):
    """The job is not in a state that allows this."""

    code = "illegal_transition"


class KeyReused(Conflict):
    """The id or idempotency key belongs to another job."""

    code = "key_reused"


class PayloadTooLarge(QuorraError):
    """A payload, a result or a whole call is over its limit; repeated as it is, it is refused again."""

    code = "payload_too_large"


class Overloaded(QuorraError):
    """The server is busy; try again shortly."""

    code = "overloaded"


class StorageUnavailable(QuorraError):
    """The server cannot reach its database; nothing was changed: try again shortly."""

    code = "storage_unavailable"


class OutcomeUnknown(StorageUnavailable):
    """No answer came, so that a write may have happened or not: repeat it with the same id or idempotency key."""

    code = "outcome_unknown"


class LeaseLost(QuorraError):
    """The lease is over: the run should stop, and its result will be dropped."""

    code = "lease_lost"


class JobFailed(QuorraError):
    """The awaited job ended badly: dead or cancelled."""

    code = "job_failed"


class WaitTimedOut(QuorraError, TimeoutError):
    """The awaited job has not ended in time; it goes on."""

    code = "wait_timed_out"


class BadHandler(QuorraError):
    """A handler cannot be registered as it is."""

    code = "bad_handler"


_BY_CODE: dict[str, type[QuorraError]] = {
    kind.code: kind
    for kind in (
        InvalidRequest,
        Unauthenticated,
        Forbidden,
        JobNotFound,
        QueueNotFound,
        Conflict,
        IllegalTransition,
        KeyReused,
        PayloadTooLarge,
        Overloaded,
        StorageUnavailable,
        OutcomeUnknown,
        LeaseLost,
    )
}
_BY_STATUS: dict[grpc.StatusCode, type[QuorraError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Forbidden,
    # Without a code of the server's: gRPC refused the message before the server saw it.
    grpc.StatusCode.RESOURCE_EXHAUSTED: PayloadTooLarge,
    # Without a code of the server's: the connection broke, or the time was over, before it answered.
    grpc.StatusCode.UNAVAILABLE: OutcomeUnknown,
    grpc.StatusCode.DEADLINE_EXCEEDED: OutcomeUnknown,
}


def from_grpc(error: Any) -> QuorraError:
    """Return the SDK's error for a failed call, by the code that the server sent along."""
    trailing = dict(error.trailing_metadata() or ())
    message = error.details() or error.code().name
    kind = _BY_CODE.get(str(trailing.get("quorra-code", "")))
    if kind is None:
        kind = _BY_STATUS.get(error.code(), QuorraError)
        if kind is PayloadTooLarge:
            message = f"The call is larger than the server takes: send fewer jobs in one call ({message})."
    field = None
    if "quorra-problem-bin" in trailing:
        field = json.loads(trailing["quorra-problem-bin"]).get("field")
    return kind(message, field=field)
