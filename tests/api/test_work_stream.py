"""The fast way, by its protocol: credit is never exceeded, receipts come after the commit, repeating is harmless."""

import asyncio
from typing import Any

import grpc
import httpx
import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub

from tests.support.conversation import Conversation
from tests.support.processes import RunningServer, start_server
from tests.support.waiting import eventually


def _submit(api: httpx.Client, queue: str, count: int, **fields: Any) -> list[str]:
    jobs = [{"type": "t", "payload": {}, "queue": queue, **fields}] * count
    return [job["id"] for job in api.post("/v1/jobs/batch", json={"jobs": jobs}).json()["jobs"]]


async def test_never_more_jobs_than_credit(stream: Conversation, api: httpx.Client, queue_name: str) -> None:
    _submit(api, queue_name, 50)
    await stream.hello()

    await stream.grant(7)
    await stream.until_jobs(7)
    # A total that was sent before grants nothing new; what comes next is the receipt, not a job.
    await stream.grant(7)
    await stream.report(succeeded=[pb.Succeeded(lease_id=stream.jobs[0].lease_id)])
    held = len(stream.jobs)
    await stream.grant(12)
    await stream.until_jobs(12)

    assert (7, 12) == (held, len(stream.jobs))
    assert 38 == api.get(f"/v1/queues/{queue_name}").json()["counts"]["pending"]
    await stream.close()


async def test_a_stream_that_found_nothing_beside_a_full_one_is_given_the_next_job(
    stream: Conversation, api: httpx.Client, queue_name: str
) -> None:
    """The full batch of the first lets two leases run at once; the empty one must not leave its stream deaf."""
    other = Conversation(stream.stub, stream.metadata, queue_name)
    for each, credit in ((stream, 1), (other, 2)):
        await each.hello()
        await each.grant(credit)
        await each.report()
    _submit(api, queue_name, 1)
    await stream.until_jobs(1)

    (second,) = _submit(api, queue_name, 1)

    assert second == (await other.until_jobs(1))[0].id
    await stream.close()
    await other.close()


async def test_a_line_that_comes_with_the_outcome_is_kept_and_numbered_lines_are_kept_once(
    stream: Conversation, api: httpx.Client, queue_name: str
) -> None:
    (job_id,) = _submit(api, queue_name, 1)
    await stream.hello()
    await stream.grant(1)
    (job,) = await stream.until_jobs(1)

    def line(message: str, position: int) -> pb.LogLine:
        return pb.LogLine(lease_id=job.lease_id, level="info", message=message, position=position)

    await stream.report(logs=[line("first", 1)])
    await stream.report(logs=[line("first", 1), line("second", 2)])  # a repetition after a reconnect
    await stream.report(
        logs=[line("last", 3)],
        progress=[pb.Progress(lease_id=job.lease_id, done=9, total=9)],
        succeeded=[pb.Succeeded(lease_id=job.lease_id)],
    )

    lines = api.get(f"/v1/jobs/{job_id}/logs").json()["lines"]
    assert ["first", "second", "last"] == [kept["message"] for kept in lines]
    assert 9 == api.get(f"/v1/jobs/{job_id}").json()["progress"]["done"]
    await stream.close()


async def test_a_checkpoint_that_cannot_be_kept_spares_what_others_say(
    stream: Conversation, api: httpx.Client, queue_name: str
) -> None:
    _submit(api, queue_name, 2)
    await stream.hello()
    await stream.grant(2)
    bad, good = await stream.until_jobs(2)

    await stream.report(
        checkpoints=[
            pb.Checkpoint(lease_id=bad.lease_id, value=b'"\\u0000"'),
            pb.Checkpoint(lease_id=good.lease_id, value=b"7"),
        ],
        logs=[pb.LogLine(lease_id=good.lease_id, message="a line")],
    )
    await stream.report(failed=[pb.Failed(lease_id=good.lease_id, error="no", retry_after_ms=1)])
    await stream.grant(3)
    again = (await stream.until_jobs(3))[2]

    assert (good.id, b"7") == (again.id, again.checkpoint)
    assert ["a line"] == [line["message"] for line in api.get(f"/v1/jobs/{good.id}/logs").json()["lines"]]
    await stream.close()


async def test_a_job_that_is_cancelled_gives_its_place_in_a_bounded_queue_back(
    stream: Conversation, api: httpx.Client, queue_name: str
) -> None:
    """Also if its worker says nothing more of it, and only once if it does."""
    cancelled, *others = _submit(api, queue_name, 4)
    await stream.hello(queues=[pb.QueueSubscription(name=queue_name, slots=1)])
    await stream.grant(10)
    (first,) = await stream.until_jobs(1)
    assert cancelled == first.id

    api.post(f"/v1/jobs/{cancelled}/cancel")
    second = (await stream.until_jobs(2))[1]
    await stream.report(succeeded=[pb.Succeeded(lease_id=first.lease_id)])

    assert second.id in others
    assert 2 == len(stream.jobs)
    assert 2 == api.get(f"/v1/queues/{queue_name}").json()["counts"]["pending"]
    await stream.close()


@pytest.mark.parametrize(("weights", "first_forty"), [((0, 0), (40, 0)), ((3, 1), (30, 10))])
async def test_queues_are_strict_in_their_order_or_shared_by_weight(
    stream: Conversation, api: httpx.Client, queue_name: str, weights: tuple[int, int], first_forty: tuple[int, int]
) -> None:
    names = [f"{queue_name}-a", f"{queue_name}-b"]
    for name in names:
        _submit(api, name, 60)
    subscriptions = [
        pb.QueueSubscription(name=name, weight=weight) for name, weight in zip(names, weights, strict=True)
    ]
    await stream.hello(queues=subscriptions)

    for granted in range(1, 41):
        await stream.grant(granted)
        await stream.until_jobs(granted)

    assert first_forty == tuple(sum(job.queue == name for job in stream.jobs) for name in names)
    await stream.close()


async def test_a_weighted_queue_that_is_alone_gets_everything_and_owes_nothing_later(
    stream: Conversation, api: httpx.Client, queue_name: str
) -> None:
    _submit(api, f"{queue_name}-a", 100)
    await stream.hello(
        queues=[
            pb.QueueSubscription(name=f"{queue_name}-a", weight=1),
            pb.QueueSubscription(name=f"{queue_name}-b", weight=1),
        ]
    )
    for granted in range(1, 31):
        await stream.grant(granted)
        await stream.until_jobs(granted)
    _submit(api, f"{queue_name}-b", 100)
    for granted in range(31, 51):
        await stream.grant(granted)
        await stream.until_jobs(granted)

    later = [job.queue for job in stream.jobs[32:]]
    assert abs(later.count(f"{queue_name}-a") - later.count(f"{queue_name}-b")) <= 2
    await stream.close()


async def test_a_receipt_means_that_the_outcome_is_durable(
    stream: Conversation, api: httpx.Client, queue_name: str
) -> None:
    ids = _submit(api, queue_name, 3, max_retries=0)
    await stream.hello()
    await stream.grant(3)
    good, bad, back = await stream.until_jobs(3)

    receipts = await stream.report(
        succeeded=[pb.Succeeded(lease_id=good.lease_id, result=b'"fine"', run_ms=5)],
        failed=[pb.Failed(lease_id=bad.lease_id, error="broken", kind="E")],
        released=[pb.Released(lease_id=back.lease_id, reason="later", delay_ms=60_000)],
    )

    assert not receipts.refused
    assert ["succeeded", "dead", "pending"] == [api.get(f"/v1/jobs/{job_id}").json()["status"] for job_id in ids]
    await stream.close()


async def test_repeated_and_contradicting_reports_are_refused_with_what_stands(
    stream: Conversation, api: httpx.Client, queue_name: str
) -> None:
    _submit(api, queue_name, 1)
    await stream.hello()
    await stream.grant(1)
    (job,) = await stream.until_jobs(1)
    await stream.report(succeeded=[pb.Succeeded(lease_id=job.lease_id)])

    same = await stream.report(succeeded=[pb.Succeeded(lease_id=job.lease_id)])
    other = await stream.report(failed=[pb.Failed(lease_id=job.lease_id, error="no")])
    nonsense = await stream.report(succeeded=[pb.Succeeded(lease_id="nonsense")])

    reasons = [receipt.refused[0].reason for receipt in (same, other, nonsense)]
    assert [
        pb.REFUSAL_REASON_ALREADY_SETTLED_SAME,
        pb.REFUSAL_REASON_ALREADY_SETTLED_OTHER,
        pb.REFUSAL_REASON_INVALID,
    ] == reasons
    assert "succeeded" == other.refused[0].outcome
    await stream.close()


async def test_reports_of_an_earlier_stream_are_taken_on_a_new_one(
    stream: Conversation, api: httpx.Client, queue_name: str, shared_server: RunningServer
) -> None:
    (job_id,) = _submit(api, queue_name, 1)
    await stream.hello()
    await stream.grant(1)
    (job,) = await stream.until_jobs(1)
    stream.call.cancel()

    again = Conversation(stream.stub, shared_server.metadata, queue_name)
    again.sequence = 41
    await again.hello()
    receipts = await again.report(succeeded=[pb.Succeeded(lease_id=job.lease_id)])

    assert (42, []) == (receipts.sequence, list(receipts.refused))
    assert "succeeded" == api.get(f"/v1/jobs/{job_id}").json()["status"]
    await again.close()


async def test_after_goodbye_no_more_jobs_come(stream: Conversation, api: httpx.Client, queue_name: str) -> None:
    await stream.hello()
    await stream.grant(10)
    await stream.call.write(pb.WorkerMessage(goodbye=pb.Goodbye(reason="done")))
    await stream.report(started=[])

    _submit(api, queue_name, 3)
    await stream.report(started=[])

    assert [] == stream.jobs
    await stream.close()


async def test_the_bound_of_a_queue_is_kept(stream: Conversation, api: httpx.Client, queue_name: str) -> None:
    _submit(api, queue_name, 10)
    await stream.hello(queues=[pb.QueueSubscription(name=queue_name, slots=2)])
    await stream.grant(10)
    await stream.until_jobs(2)

    first = len(stream.jobs)
    await stream.report(succeeded=[pb.Succeeded(lease_id=stream.jobs[0].lease_id)])
    await stream.until_jobs(3)

    assert (2, 3) == (first, len(stream.jobs))
    stream.call.cancel()


async def test_a_worker_that_still_holds_jobs_of_an_earlier_stream_allows_fewer_of_a_bounded_queue(
    stream: Conversation, api: httpx.Client, queue_name: str
) -> None:
    """It alone knows them, also those whose end no server told."""
    _submit(api, queue_name, 3)
    await stream.hello(queues=[pb.QueueSubscription(name=queue_name, slots=2)])
    await stream.grant(10, **{queue_name: 1})
    (job,) = await stream.until_jobs(1)
    # The worker goes on with what it holds of the earlier stream: an end of this one's job allows nothing by itself.
    await stream.report(succeeded=[pb.Succeeded(lease_id=job.lease_id)])
    await stream.report(started=[])
    before = len(stream.jobs)

    await stream.grant(10, **{queue_name: 3})
    await stream.until_jobs(3)

    assert 1 == before
    await stream.close()


async def test_large_jobs_come_in_messages_that_every_client_takes(
    stream: Conversation, api: httpx.Client, queue_name: str
) -> None:
    """gRPC clients take messages of up to 4 MiB unless they were told otherwise."""
    for _ in range(6):
        job = {"type": "t", "queue": queue_name, "payload": {"text": "x" * 1_000_000}}
        assert api.post("/v1/jobs", json=job).is_success
    await stream.hello()
    await stream.grant(6)

    assert 6 == len(await stream.until_jobs(6))
    await stream.close()


async def test_wishes_out_of_bounds_are_clamped_and_said(stream: Conversation) -> None:
    welcome = await stream.hello(lease_ttl_seconds=100_000)

    assert 12 * 3600 == welcome.lease_ttl_seconds
    assert "lease_ttl_seconds" in welcome.adjusted[0]
    assert welcome.heartbeat_interval_ms * 3 <= welcome.lease_ttl_seconds * 1000 + 3
    await stream.close()


async def test_the_first_message_has_to_be_hello(stream: Conversation) -> None:
    await stream.grant(1)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.call.read()

    assert grpc.StatusCode.INVALID_ARGUMENT == caught.value.code()


async def test_a_heartbeat_keeps_leases_and_names_the_ones_that_are_over(
    stream: Conversation, api: httpx.Client, queue_name: str
) -> None:
    ids = _submit(api, queue_name, 2)
    await stream.hello()
    await stream.grant(2)
    kept, cancelled = await stream.until_jobs(2)
    api.post(f"/v1/jobs/{ids[1]}/cancel")

    reply = await stream.stub.Heartbeat(
        pb.HeartbeatRequest(worker_id="stream-worker", boot_id="boot", lease_ids=[kept.lease_id, cancelled.lease_id]),
        metadata=stream.metadata,
    )

    assert [(cancelled.lease_id, "cancelled")] == [(ended.lease_id, ended.reason) for ended in reply.ended]
    stream.call.cancel()


async def test_a_worker_that_says_nothing_for_three_pings_is_dropped(stream: Conversation) -> None:
    """Its machine may be gone without a word: nothing else would tell."""
    welcome = await stream.hello()
    pings = 0
    async with asyncio.timeout(5 * welcome.ping_interval_ms / 1000):
        while (message := await stream.call.read()) is not grpc.aio.EOF:
            pings += message.HasField("ping")

    assert 3 <= pings


async def test_a_worker_that_stops_reading_is_dropped_before_its_receipts_fill_the_memory(database_url: str) -> None:
    """The server keeps a thousand unread messages of a stream, and no more."""
    with start_server(database_url) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            stream = Conversation(WorkerServiceStub(channel), server.metadata, "default")
            await stream.hello()
            refused = [pb.Succeeded(lease_id=f"nonsense-{'x' * 200}")] * 200

            async def report_for_ever() -> None:
                for sequence in range(1, 1_000_000):
                    reports = pb.Reports(sequence=sequence, succeeded=refused)
                    await stream.call.write(pb.WorkerMessage(reports=reports))

            async def is_dropped() -> bool:
                return "worker_does_not_read" in server.log

            reporting = asyncio.create_task(report_for_ever())
            await eventually(is_dropped, "the stream is dropped", timeout=30)
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)

        assert httpx.get(f"{server.http_url}/readyz").is_success
