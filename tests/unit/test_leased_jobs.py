"""Leased jobs as they travel: built from what they share, and each still its own."""

from itertools import product
from uuid import uuid4

from quorra_proto.v1 import quorra_pb2 as pb
from quorra_server.domain.ids import new_job_id
from quorra_server.domain.job import LeaseBatch, LeasedJob
from quorra_server.transports.grpc.convert import add_jobs

SECOND = 1_700_000_000_000_000


def _job(ordinal: int, kind: str, run_at_us: int, created_at_us: int, attempts: int) -> LeasedJob:
    return LeasedJob(
        id=str(new_job_id()),
        ordinal=ordinal,
        payload=f'{{"n":{ordinal}}}',
        run_at_us=run_at_us,
        created_at_us=created_at_us,
        type=kind,
        priority=len(kind),
        attempts=attempts,
        deliveries=attempts + 1,
        generation=1,
        max_retries=3,
        timeout_ms=attempts * 1000,
    )


def _moment(message: pb.Job, field: str) -> int:
    stamp = getattr(message, field)
    return int(stamp.seconds * 1_000_000 + stamp.nanos // 1000)


def test_each_job_of_a_batch_has_its_own_traits_and_moments() -> None:
    """Neighbours that are alike, alike but for a moment, and as others were before them, in every order of three."""
    looks = [
        (kind, SECOND + run, SECOND + made, attempts)
        for kind, run, made, attempts in (
            ("a", 0, 0, 0),
            ("a", 1, 0, 0),
            ("a", 0, 1, 0),
            ("bb", 0, 0, 0),
            ("a", 0, 0, 1),
        )
    ]
    orders = [look for order in product(looks, repeat=3) for look in order]
    jobs = [_job(ordinal, *look) for ordinal, look in enumerate(orders, 1)]
    message = pb.Jobs()

    add_jobs(message, LeaseBatch(7, uuid4(), "q", SECOND + 9, 30_000, jobs), jobs)

    for job, sent in zip(jobs, message.jobs, strict=True):
        assert (job.id, job.payload.encode()) == (sent.id, sent.payload)
        assert (job.type, job.priority, job.attempts) == (sent.type, sent.priority, sent.attempts)
        assert (job.deliveries, job.timeout_ms) == (sent.deliveries, sent.timeout_ms)
        assert (job.run_at_us, job.created_at_us) == (_moment(sent, "run_at"), _moment(sent, "created_at"))
    assert len(jobs) == len({sent.lease_id for sent in message.jobs})
