"""Every error that a caller can meet: few, typed, each with a stable code and the next step in its message."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with one field of a request.

    Attributes:
        field: Where, as a path such as `payload` or `jobs[3].queue`; empty for the request as a whole.
        message: What is wrong and what would be right, as a sentence.
    """

    field: str
    message: str


class QuorraError(Exception):
    """Base of all errors that are part of the contract."""

    code = "internal"
    title = "Something went wrong"

    def __init__(self, message: str, *, field: str | None = None, retry_after_seconds: float | None = None) -> None:
        """Say what happened and what to do next; `field` names the culprit where there is one."""
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_seconds = retry_after_seconds


class InvalidRequest(QuorraError):
    """The request cannot be accepted as it stands; correct the named fields and send it again."""

    code = "invalid_request"
    title = "The request is not valid"

    def __init__(self, message: str, *, field: str | None = None, problems: Sequence[FieldProblem] = ()) -> None:
        """Take one sentence for the whole, or one problem for each field."""
        super().__init__(message, field=field or (problems[0].field if problems else None))
        self.problems = tuple(problems)


class MalformedRequest(InvalidRequest):
    """The request cannot even be parsed."""

    code = "malformed_request"
    title = "The request could not be parsed"


class Unauthenticated(QuorraError):
    """No key, or one that is not known."""

    code = "unauthenticated"
    title = "An API key is needed"


class Forbidden(QuorraError):
    """The key is known, but may not do this."""

    code = "forbidden"
    title = "The key may not do this"


class JobNotFound(QuorraError):
    """No job has this id (or it is past its retention time)."""

    code = "job_not_found"
    title = "There is no such job"


class QueueNotFound(QuorraError):
    """No job was ever submitted to this queue."""

    code = "queue_not_found"
    title = "There is no such queue"


class RouteNotFound(QuorraError):
    """No such path."""

    code = "route_not_found"
    title = "There is no such path"


class MethodNotAllowed(QuorraError):
    """The path exists, but not with this method."""

    code = "method_not_allowed"
    title = "The path does not take this method"


class Conflict(QuorraError):
    """The request is fine, but the state of things forbids it."""

    code = "conflict"
    title = "The current state does not allow this"


class IllegalTransition(Conflict):
    """The job is not in a state from which this move is legal."""

    code = "illegal_transition"
    title = "The job is not in a state that allows this"


class KeyReused(Conflict):
    """The same id or idempotency key was used for another job."""

    code = "key_reused"
    title = "The key belongs to another job"


class LeaseLost(QuorraError):
    """The lease is over: it ran out, was cancelled, or never existed. Nothing was changed."""

    code = "lease_lost"
    title = "The lease is over"


class PayloadTooLarge(QuorraError):
    """A payload, result or body is over its limit."""

    code = "payload_too_large"
    title = "Too large"


class Overloaded(QuorraError):
    """The server has more than it can take; try again after `retry_after_seconds`."""

    code = "overloaded"
    title = "The server is busy"


class StorageUnavailable(QuorraError):
    """PostgreSQL cannot be reached; nothing was promised. Try again after `retry_after_seconds`."""

    code = "storage_unavailable"
    title = "The database cannot be reached"


class OutcomeUnknown(StorageUnavailable):
    """The connection broke while a write was under way: it may or may not have happened."""

    code = "outcome_unknown"
    title = "It is not known whether the write happened"


class SchemaTooNew(StorageUnavailable):
    """The database was migrated by a newer server; run that version, or a later one."""

    code = "schema_too_new"
    title = "The database belongs to a newer server"
