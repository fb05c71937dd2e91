"""JobService: what producers call over gRPC; what operators call is in operating.py."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1 import quorra_pb2_grpc as pb_grpc

from quorra_server.domain.errors import InvalidRequest, PayloadTooLarge
from quorra_server.domain.job import NewJob, SubmittedJob
from quorra_server.domain.json_text import searchable_json
from quorra_server.domain.limits import Limits
from quorra_server.domain.validation import parse_id, validate_job, validate_reason
from quorra_server.services import Services
from quorra_server.storage import history, queues
from quorra_server.storage import jobs as store
from quorra_server.storage.database import Database
from quorra_server.storage.jobs import JobFilter
from quorra_server.transports.grpc import convert
from quorra_server.transports.grpc.operating import Operating, moment_of, status_filter
from quorra_server.transports.pages import decode_cursor, encode_cursor

PAGE_JOBS_DEFAULT = 50
WAIT_MS_MAX = 60_000


class JobService(Operating, pb_grpc.JobServiceServicer):
    """Offers what REST offers. Errors leave through the interceptor, with their status and code."""

    def __init__(self, services: Services, database: Database, limits: Limits) -> None:
        """Take the verbs, and the bounds of what may be submitted."""
        self._services = services
        self._database = database
        self._limits = limits

    async def SubmitJob(self, request: pb.SubmitJobRequest, context: Any) -> pb.SubmitJobResponse:
        """Submit one job."""
        convert.refuse_unknown(request)
        draft = convert.draft(request.job, request.idempotency_key, path="job.")
        job = validate_job(draft, self._limits, path="job.")
        submitted = await self._services.submit.submit_job(job, context.principal)
        return pb.SubmitJobResponse(job=_answers([submitted]).jobs[0])

    async def SubmitJobs(self, request: pb.SubmitJobsRequest, context: Any) -> pb.SubmitJobsResponse:
        """Submit a batch, all or nothing."""
        convert.refuse_unknown(request)
        if len(request.jobs) > self._limits.batch_jobs_max:
            raise PayloadTooLarge(
                f"There are {len(request.jobs):,} jobs; a batch takes {self._limits.named('batch_jobs_max')}.",
                field="jobs",
            )
        submitted = await self._services.submit.submit_jobs(self._validated(request.jobs), context.principal)
        return _answers(submitted)

    def _validated(self, specs: Sequence[pb.JobSpec]) -> list[NewJob]:
        """Return the jobs of a batch; a path for each takes time, so only a problem has them read with paths."""
        try:
            return [validate_job(convert.draft(spec), self._limits) for spec in specs]
        except (InvalidRequest, PayloadTooLarge):
            return [
                validate_job(convert.draft(spec, path=f"jobs[{position}]."), self._limits, path=f"jobs[{position}].")
                for position, spec in enumerate(specs)
            ]

    async def ImportJobs(
        self, request_iterator: AsyncIterator[pb.SubmitJobsRequest], context: Any
    ) -> AsyncIterator[pb.SubmitJobsResponse]:
        """Submit batch after batch, each all or nothing, answered in order."""
        async for request in request_iterator:
            yield await self.SubmitJobs(request, context)

    async def GetJob(self, request: pb.GetJobRequest, context: Any) -> pb.JobDetails:  # noqa: ARG002
        """Read a job, perhaps after it ended."""
        convert.refuse_unknown(request)
        if not 0 <= request.wait_ms <= WAIT_MS_MAX:
            raise InvalidRequest(f"wait_ms is {request.wait_ms}; use 0 to {WAIT_MS_MAX}.", field="wait_ms")
        job = await self._services.wait.wait_for_end(parse_id(request.id), request.wait_ms / 1000)
        details = convert.details(job)
        if job.last_error is not None:
            details.errors.extend(convert.attempt_errors(await history.list_errors(self._database.main, job.id)))
        if job.started_at is not None:
            note = (await history.find_notes(self._database.main, [job.id])).get(job.id)
            if note is not None and note.progress_done is not None:
                details.progress.CopyFrom(
                    pb.JobProgress(
                        done=note.progress_done, total=note.progress_total or 0, note=note.progress_note or ""
                    )
                )
        return details

    async def ListJobs(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsResponse:  # noqa: ARG002
        """List jobs, newest first."""
        convert.refuse_unknown(request)
        size = request.page_size or PAGE_JOBS_DEFAULT
        if not 1 <= size <= self._limits.page_jobs_max:
            raise InvalidRequest(
                f"page_size is {size}; use 1 to {self._limits.named('page_jobs_max')}.", field="page_size"
            )
        wanted = JobFilter(
            status=status_filter(request.status, "status"),
            queue=self._clean(request.queue, "queue"),
            type=self._clean(request.type, "type"),
            tag=self._clean(request.tag, "tag"),
            created_from=moment_of(request, "created_after"),
            created_before=moment_of(request, "created_before"),
            payload=self._searched(request.payload),
        )
        after = decode_cursor(request.page_token, "page_token") if request.page_token else None
        positions = await store.list_jobs(self._database.main, wanted, limit=size, after=after)
        jobs = await store.get_jobs(self._database.main, [position.job_id for position in positions])
        token = encode_cursor(positions[-1]) if len(positions) == size else ""
        return pb.ListJobsResponse(jobs=[convert.details(job) for job in jobs], next_page_token=token)

    def _searched(self, payload: bytes) -> str | None:
        return searchable_json(payload, "payload", self._limits) if payload else None

    async def CancelJob(self, request: pb.CancelJobRequest, context: Any) -> pb.JobDetails:  # noqa: ARG002
        """Cancel a job."""
        convert.refuse_unknown(request)
        reason = validate_reason(request.reason)
        return convert.details(await self._services.cancel.cancel_job(parse_id(request.id), reason))

    async def RetryJob(self, request: pb.RetryJobRequest, context: Any) -> pb.JobDetails:  # noqa: ARG002
        """Run a failed, delayed or dead job now."""
        convert.refuse_unknown(request)
        return convert.details(await self._services.retry.retry_job(parse_id(request.id)))

    async def ListQueues(self, request: pb.ListQueuesRequest, context: Any) -> pb.ListQueuesResponse:  # noqa: ARG002
        """Count jobs by queue and status."""
        counts = await queues.count_queues(self._database.main)
        return pb.ListQueuesResponse(
            queues=[
                pb.QueueCount(queue=queue, status=status.value, count=count)
                for queue, by_status in counts.items()
                for status, count in by_status.items()
                if count
            ]
        )


def _answers(submitted: Sequence[SubmittedJob]) -> pb.SubmitJobsResponse:
    response = pb.SubmitJobsResponse()
    # Jobs of a batch mostly differ in their ids alone: the rest is built once and copied.
    shared, traits = pb.SubmittedJob(), None
    # A tenth of the time that `str` takes for each id.
    ids: list[str] = msgspec.to_builtins([job.id for job in submitted])
    for job, job_id in zip(submitted, ids, strict=True):
        if job[1:] != traits:
            traits = job[1:]
            shared = pb.SubmittedJob(status=job.status, run_at=convert.timestamp(job.run_at), existing=job.existing)
        answer = response.jobs.add()
        answer.CopyFrom(shared)
        answer.id = job_id
    return response
