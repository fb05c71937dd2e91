"""The Quorra worker SDK: write handlers, run workers, submit jobs."""

from quorra_worker_sdk.client import AsyncClient, Client, EnqueuedJob, JobHandler, JobState, NewJob, Submitted
from quorra_worker_sdk.context import Context, Job
from quorra_worker_sdk.errors import (
    BadHandler,
    Conflict,
    Forbidden,
    IllegalTransition,
    InvalidRequest,
    JobFailed,
    JobNotFound,
    KeyReused,
    LeaseLost,
    OutcomeUnknown,
    Overloaded,
    PayloadTooLarge,
    QuorraError,
    StorageUnavailable,
    Unauthenticated,
    WaitTimedOut,
)
from quorra_worker_sdk.handlers import Retry
from quorra_worker_sdk.outcomes import Cancel, Dead, RetryAfter, Snooze
from quorra_worker_sdk.worker import Worker

__all__ = [
    "Worker",
    "Context",
    "Job",
    "Retry",
    "Snooze",
    "RetryAfter",
    "Cancel",
    "Dead",
    "Client",
    "AsyncClient",
    "NewJob",
    "Submitted",
    "JobState",
    "JobHandler",
    "EnqueuedJob",
    "QuorraError",
    "BadHandler",
    "Conflict",
    "Forbidden",
    "IllegalTransition",
    "InvalidRequest",
    "JobFailed",
    "JobNotFound",
    "KeyReused",
    "LeaseLost",
    "OutcomeUnknown",
    "Overloaded",
    "PayloadTooLarge",
    "StorageUnavailable",
    "Unauthenticated",
    "WaitTimedOut",
]
