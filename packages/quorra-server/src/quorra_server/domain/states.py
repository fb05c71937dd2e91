"""The states of a job, how an attempt can end, and every legal move between states, as data."""

from enum import StrEnum
from typing import NamedTuple


class JobStatus(StrEnum):
    """Where a job is in its life, as every surface spells it."""

    PENDING = "pending"
    LEASED = "leased"
    PROCESSING = "processing"
    FAILED = "failed"
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    CANCELLED = "cancelled"


WAITING = frozenset({JobStatus.PENDING, JobStatus.FAILED})
HELD = frozenset({JobStatus.LEASED, JobStatus.PROCESSING})
TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.DEAD, JobStatus.CANCELLED})


class OutcomeKind(StrEnum):
    """How a lease ended; one row of history each."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    RELEASED = "released"
    SNOOZED = "snoozed"
    CANCELLED = "cancelled"


class Event(StrEnum):
    """What moves a job, named like the statement or the SQL function that does it."""

    SUBMIT = "submit_jobs"
    ENQUEUE = "enqueue"
    SUBMIT_NAMED = "submit_named_jobs"
    SUBMIT_LEASED = "submit_leased_jobs"
    LEASE = "lease_jobs"
    PARK = "park_waiting"
    START = "mark_started"
    SETTLE = "settle_attempts"
    COMPLETE = "complete"
    FAIL = "fail"
    EXPIRE = "expire_leases"
    TIME_OUT = "time_out_runs"
    CANCEL_WAITING = "cancel_waiting"
    CANCEL_HELD = "cancel_held"
    RETRY = "retry_waiting"
    REPLAY = "replay_dead"
    RESCHEDULE = "reschedule_jobs"
    PURGE_WAITING = "purge_waiting"
    PURGE_DEAD = "purge_dead"


class Actor(StrEnum):
    """Who may cause an event."""

    PRODUCER = "producer"
    WORKER = "worker"
    SERVER = "server"
    OPERATOR = "operator"


class Transition(NamedTuple):
    """One event with the states it leaves and the states it may lead to.

    `before` is empty for a birth, `after` is empty for a removal.
    """

    event: Event
    actor: Actor
    before: frozenset[JobStatus]
    after: frozenset[JobStatus]


def _states(*states: JobStatus) -> frozenset[JobStatus]:
    return frozenset(states)


TRANSITIONS: tuple[Transition, ...] = (
    Transition(Event.SUBMIT, Actor.PRODUCER, _states(), _states(JobStatus.PENDING)),
    Transition(Event.ENQUEUE, Actor.PRODUCER, _states(), _states(JobStatus.PENDING)),
    Transition(Event.SUBMIT_NAMED, Actor.PRODUCER, _states(), _states(JobStatus.PENDING)),
    Transition(Event.SUBMIT_LEASED, Actor.PRODUCER, _states(), _states(JobStatus.PENDING, JobStatus.LEASED)),
    # Delivery is the start on the plain path, so a lease may lead straight to `processing`.
    Transition(Event.LEASE, Actor.WORKER, WAITING, HELD),
    Transition(Event.PARK, Actor.SERVER, _states(JobStatus.PENDING), _states(JobStatus.PENDING)),
    Transition(Event.START, Actor.WORKER, _states(JobStatus.LEASED), _states(JobStatus.PROCESSING)),
    Transition(
        Event.SETTLE,
        Actor.WORKER,
        HELD,
        TERMINAL | WAITING,  # released and snoozed runs go back to `pending`
    ),
    Transition(Event.COMPLETE, Actor.WORKER, HELD, _states(JobStatus.SUCCEEDED)),
    Transition(Event.FAIL, Actor.WORKER, HELD, WAITING | {JobStatus.DEAD}),
    Transition(Event.EXPIRE, Actor.SERVER, HELD, WAITING | {JobStatus.DEAD}),
    Transition(Event.TIME_OUT, Actor.SERVER, _states(JobStatus.PROCESSING), _states(JobStatus.FAILED, JobStatus.DEAD)),
    Transition(Event.CANCEL_WAITING, Actor.OPERATOR, WAITING, _states(JobStatus.CANCELLED)),
    Transition(Event.CANCEL_HELD, Actor.OPERATOR, HELD, _states(JobStatus.CANCELLED)),
    Transition(Event.RETRY, Actor.OPERATOR, WAITING, _states(JobStatus.PENDING)),
    Transition(Event.REPLAY, Actor.OPERATOR, _states(JobStatus.DEAD), _states(JobStatus.PENDING)),
    Transition(Event.RESCHEDULE, Actor.OPERATOR, WAITING, WAITING),
    Transition(Event.PURGE_WAITING, Actor.OPERATOR, WAITING, _states()),
    Transition(Event.PURGE_DEAD, Actor.OPERATOR, _states(JobStatus.DEAD), _states()),
)
