"""The operators' part of JobService: change, look back, bulk verbs, queues, dead jobs, workers."""

from typing import Any, Literal, get_args

from quorra_proto.v1 import quorra_pb2 as pb

from quorra_server.domain.errors import FieldProblem, InvalidRequest, QueueNotFound
from quorra_server.domain.json_text import checked_json
from quorra_server.domain.limits import Limits
from quorra_server.domain.states import JobStatus
from quorra_server.domain.validation import (
    JobDraft,
    parse_id,
    validate_backoff,
    validate_change,
    validate_ids,
    validate_moment,
    validate_name,
    validate_reason,
)
from quorra_server.services import Services
from quorra_server.services.cancel import get_job
from quorra_server.storage import history, queues, workers
from quorra_server.storage.database import Database
from quorra_server.storage.jobs import JobFilter
from quorra_server.transports.grpc import convert

Change = Literal["run_at", "delay_ms", "priority", "queue", "max_retries"]
CHANGES: tuple[Change, ...] = get_args(Change)


class Operating:
    """What operators call. Errors leave through the interceptor, with their status and code."""

    _services: Services
    _database: Database
    _limits: Limits

    async def RescheduleJob(self, request: pb.RescheduleJobRequest, context: Any) -> pb.JobDetails:  # noqa: ARG002
        """Change when, where and how urgently a waiting job runs."""
        convert.refuse_unknown(request)
        given: dict[str, Any] = {name: getattr(request, name) for name in CHANGES if request.HasField(name)}
        if not given:
            raise InvalidRequest(f"There is nothing to change; give one of {', '.join(CHANGES)}.", field="run_at")
        if "run_at" in given:
            given["run_at"] = convert.moment(request.run_at, "run_at")
        validate_change(JobDraft(**given), self._limits)
        return convert.details(await self._services.reschedule.reschedule_job(parse_id(request.id), **given))

    async def ListHistory(self, request: pb.ListHistoryRequest, context: Any) -> pb.ListHistoryResponse:  # noqa: ARG002
        """Read the last leases of a job and how they ended, oldest first; at most 200."""
        convert.refuse_unknown(request)
        job = await get_job(self._database.main, parse_id(request.id))
        attempts = await history.list_history(self._database.main, job.id)
        return pb.ListHistoryResponse(attempts=[convert.history_entry(attempt) for attempt in attempts])

    async def ListLogs(self, request: pb.ListLogsRequest, context: Any) -> pb.ListLogsResponse:  # noqa: ARG002
        """Read the last log lines of a job."""
        convert.refuse_unknown(request)
        job = await get_job(self._database.main, parse_id(request.id))
        lines = await history.list_logs(self._database.main, job.id, limit=self._limits.log_lines_max)
        return pb.ListLogsResponse(
            lines=[
                pb.LogEntry(at=convert.timestamp(line.logged_at), level=line.level, message=line.message)
                for line in lines
            ]
        )

    async def CancelJobs(self, request: pb.CancelJobsRequest, context: Any) -> pb.CancelJobsResponse:  # noqa: ARG002
        """Cancel all jobs that match."""
        convert.refuse_unknown(request)
        wanted, reason = self._filter(request), validate_reason(request.reason)
        result = await self._services.cancel.cancel_matching(wanted, reason, dry_run=request.dry_run)
        return pb.CancelJobsResponse(matched=result.matched, changed=result.changed)

    async def RetryJobs(self, request: pb.RetryJobsRequest, context: Any) -> pb.RetryJobsResponse:  # noqa: ARG002
        """Retry all jobs that match."""
        convert.refuse_unknown(request)
        result = await self._services.retry.retry_matching(self._filter(request), dry_run=request.dry_run)
        return pb.RetryJobsResponse(matched=result.matched, changed=result.changed)

    async def GetQueue(self, request: pb.GetQueueRequest, context: Any) -> pb.QueueDetails:  # noqa: ARG002
        """Read the figures of one queue."""
        convert.refuse_unknown(request)
        return await self._queue(validate_name(request.queue, "queue", self._limits), must_exist=True)

    async def SetQueue(self, request: pb.SetQueueRequest, context: Any) -> pb.QueueDetails:  # noqa: ARG002
        """Set the back-off for jobs that bring none of their own."""
        convert.refuse_unknown(request)
        name, backoff = validate_name(request.queue, "queue", self._limits), None
        if request.HasField("backoff"):
            backoff = validate_backoff(convert.backoff_fields(request.backoff, ""), self._limits)
        await queues.set_queue(self._database.main, name, backoff)
        return await self._queue(name, must_exist=False)

    async def PurgeQueue(self, request: pb.PurgeQueueRequest, context: Any) -> pb.PurgeQueueResponse:  # noqa: ARG002
        """Remove the waiting jobs of a queue."""
        convert.refuse_unknown(request)
        name = validate_name(request.queue, "queue", self._limits)
        # Without a bound in time: the reply could not say that there is more. Clients have deadlines of their own.
        return pb.PurgeQueueResponse(purged=(await self._services.purge.purge_queue(name)).purged)

    async def ReplayDead(self, request: pb.ReplayDeadRequest, context: Any) -> pb.ReplayDeadResponse:  # noqa: ARG002
        """Give dead jobs a new life."""
        convert.refuse_unknown(request)
        payload = None
        if request.payload:
            payload = checked_json(request.payload, "payload", self._limits, object_only=True)
        jobs = await self._services.replay.replay_jobs(validate_ids(request.ids), payload)
        return pb.ReplayDeadResponse(jobs=[convert.details(job) for job in jobs])

    async def PurgeDead(self, request: pb.PurgeDeadRequest, context: Any) -> pb.PurgeDeadResponse:  # noqa: ARG002
        """Remove dead jobs for good."""
        convert.refuse_unknown(request)
        before = moment_of(request, "before")
        if (before is None) != bool(request.ids):
            message = "Give ids, or before, and not both."
            raise InvalidRequest(message, problems=[FieldProblem("ids", message)])
        purge = self._services.purge
        if before is None:
            return pb.PurgeDeadResponse(purged=(await purge.purge_dead(validate_ids(request.ids))).purged)
        return pb.PurgeDeadResponse(purged=(await purge.purge_dead_before(before)).purged)

    async def ListWorkers(self, request: pb.ListWorkersRequest, context: Any) -> pb.ListWorkersResponse:  # noqa: ARG002
        """List the workers that were heard of lately."""
        convert.refuse_unknown(request)
        live = await workers.list_workers(self._database.main)
        return pb.ListWorkersResponse(workers=[convert.live_worker(worker) for worker in live])

    def _filter(self, request: Any) -> JobFilter:
        if not request.HasField("filter"):
            message = "filter is missing; give an empty one to mean every job."
            raise InvalidRequest(message, problems=[FieldProblem("filter", message)])
        given: pb.JobFilter = request.filter
        convert.refuse_unknown(given, "filter.")
        return JobFilter(
            status=status_filter(given.status, "filter.status"),
            queue=self._clean(given.queue, "filter.queue"),
            type=self._clean(given.type, "filter.type"),
            tag=self._clean(given.tag, "filter.tag"),
            created_from=moment_of(given, "created_after", "filter."),
            created_before=moment_of(given, "created_before", "filter."),
        )

    def _clean(self, value: str, field: str) -> str | None:
        return validate_name(value, field, self._limits) if value else None

    async def _queue(self, name: str, *, must_exist: bool) -> pb.QueueDetails:
        counts = (await queues.count_queues(self._database.main)).get(name)
        if counts is None and must_exist:
            raise QueueNotFound(f"No job was ever submitted to a queue {name!r}; ListQueues names all queues.")
        figures = await queues.describe_queue(self._database.main, name)
        return pb.QueueDetails(
            queue=name,
            counts=[
                pb.QueueCount(queue=name, status=status.value, count=count)
                for status, count in (counts or {}).items()
                if count
            ],
            oldest_waiting_seconds=figures.oldest_waiting_seconds,
            backoff=convert.backoff_message(figures.backoff),
        )


def moment_of(message: Any, name: str, path: str = "") -> Any:
    """Return the moment in a field of a filter; None if it is absent.

    Raises:
        InvalidRequest: It is so far away that no job can be there.
    """
    if not message.HasField(name):
        return None
    return validate_moment(convert.moment(getattr(message, name), path + name), path + name)


def status_filter(text: str, field: str) -> JobStatus | None:
    """Return the status that a text names; empty means any.

    Raises:
        InvalidRequest: There is no such status.
    """
    if not text:
        return None
    try:
        return JobStatus(text)
    except ValueError as error:
        names = ", ".join(status.value for status in JobStatus)
        raise InvalidRequest(f"{field} is {text!r}; use one of {names}.", field=field) from error
