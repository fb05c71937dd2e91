"""The clients of a fault run, in a process of their own: producers, operators, observers and hostile plain workers.

Each writes what it did and what it was told. They follow the documented retry rule: a request that was answered with
503 or 429, or not at all, is repeated with the same ids and keys until it is answered; anything else is an answer.

The first SIGTERM stops the submissions and makes the plain workers honest, so that everything can end; the second ends
the process.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub

from tests.faults.history import History
from tests.faults.plans import UNIQUE_KEYS, new_id, new_job, new_quick_job

REQUEST_SECONDS_MAX = 4.0
REPEAT_SECONDS = (0.1, 1.0)
REPEATABLE = (429, 503)
BATCH_JOBS = (20, 120)
# Enough of them that some go on while others wait for a server that does not answer.
BATCH_PRODUCERS = 8
SINGLE_PRODUCERS = 3
# Of the load's rate: jobs without ids for a worker that waits for them, in batches small and large.
QUICK_SHARE = 0.1
QUICK_BATCH_JOBS = (1, 80)
SINGLE_PAUSE_SECONDS = 0.1
OPERATOR_PAUSE_SECONDS = 0.15
PURGE_PAUSE_SECONDS = 1.0
PURGED_QUEUE = "purged"
PURGED_JOBS = 5
# A statement whose connection is a black hole is given up after 30 s; of a rest, half is certain.
UNDER_WAY_SECONDS = 80.0
OBSERVER_PAUSE_SECONDS = 0.1
LOOKS_PER_JOB = 12
PLAIN_WORKERS = 3
PLAIN_LEASE_SECONDS = 1
# A round takes as long as its slowest job, 2.5 s; so many keep up with their share of 600 jobs/s.
PLAIN_JOBS = 40
RECENT_JOBS = 2_000
READ_BACK_SHARE = 0.3


class Load:
    """All clients of one process."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Take whom to talk to, how fast, and where to write."""
        self.folder = Path(options.folder)
        self.urls: list[str] = options.http.split(",")
        self.grpc_addresses: list[str] = options.grpc.split(",")
        self.key: str = options.key
        self.rate: float = options.rate
        self.lease_seconds: float = options.lease_seconds
        self.seed: int = options.seed
        self.purges: bool = options.purges
        self.is_draining = asyncio.Event()
        self.is_over = asyncio.Event()
        self.recent: deque[str] = deque(maxlen=RECENT_JOBS)
        self.http = httpx.AsyncClient(
            headers={"X-API-Key": self.key, "Content-Type": "application/json"},
            timeout=REQUEST_SECONDS_MAX,
            limits=httpx.Limits(max_connections=60, keepalive_expiry=5),
        )

    async def run(self) -> None:
        """Work until the second signal."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._signalled)
        clients: list[Awaitable[None]] = []
        if self.rate > 0:
            clients += [Producer(self, number).submit_batches() for number in range(BATCH_PRODUCERS)]
            clients += [Producer(self, 90).submit_quick()]
            clients += [Producer(self, 100 + number).submit_singles() for number in range(SINGLE_PRODUCERS)]
            clients += [Operator(self, 200).operate(), Observer(self, 300).observe(), Observer(self, 301).observe()]
            clients += [PlainWorker(self, 400 + number).work() for number in range(PLAIN_WORKERS)]
            clients += [Purger(self, 500).submit_and_purge()] if self.purges else []
        tasks = [asyncio.ensure_future(client) for client in clients]
        over = asyncio.ensure_future(self.is_over.wait())
        done, _ = await asyncio.wait([over, *tasks], return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        await over
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.http.aclose()

    def _signalled(self) -> None:
        if self.is_draining.is_set():
            self.is_over.set()
        self.is_draining.set()


class Client:
    """One client: dice, a history and a way to ask until there is an answer."""

    def __init__(self, load: Load, number: int) -> None:
        """Take a number that is the client's name in the history."""
        self.load = load
        self.dice = random.Random(f"{load.seed}-{number}")
        self.history = History(load.folder, f"client-{number}")
        self.unclear_tries = 0

    async def ask(
        self, method: str, path: str, body: Any = None, *, repeat: bool = True, note: dict[str, Any], **more: Any
    ) -> httpx.Response | None:
        """Ask until there is an answer, each try at some server; None if there is none and `repeat` forbids another."""
        call = new_id()
        self.history.write("invoke", call=call, **note)
        pause = REPEAT_SECONDS[0]
        while not self.load.is_over.is_set():
            url = self.dice.choice(self.load.urls) + path
            try:
                response = await self.load.http.request(method, url, content=encoded(body), **more)
            except (httpx.HTTPError, OSError) as error:
                self.unclear_tries += 1
                self.history.write("unknown", call=call, error=type(error).__name__, what=note["what"])
            else:
                if response.status_code not in REPEATABLE:
                    self._write_answer(call, note, response)
                    return response
                code = _code(response)
                self.unclear_tries += code == "outcome_unknown"
                self.history.write("unknown" if code == "outcome_unknown" else "refused", call=call, what=note["what"])
                if not repeat and code != "outcome_unknown":
                    # Nothing happened, so that asking again is safe even without a key.
                    await asyncio.sleep(pause)
                    continue
            if not repeat:
                return None
            await asyncio.sleep(pause * self.dice.uniform(0.5, 1.5))
            pause = min(pause * 2, REPEAT_SECONDS[1])
        return None

    def _write_answer(self, call: str, note: dict[str, Any], response: httpx.Response) -> None:
        event = "ok" if response.is_success else "fail"
        told = {"status": response.status_code, "what": note["what"]}
        if not response.is_success:
            told["code"] = _code(response)
        elif note["what"] == "submit":
            answer = response.json()
            told["jobs"] = [[job["id"], job.get("existing", False)] for job in answer.get("jobs", [answer])]
        elif note["what"] == "replay":
            told["jobs"] = [[job["id"], job["generation"]] for job in response.json()["jobs"]]
        elif note["what"] == "purge":
            told["purged"] = response.json()["purged"]
        self.history.write(event, call=call, **told)

    async def rest(self, seconds: float) -> None:
        """Wait about so long, or until the load drains."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.load.is_draining.wait(), seconds * self.dice.uniform(0.5, 1.5))


class Producer(Client):
    """Submits jobs and reads some of them back from another server."""

    async def submit_batches(self) -> None:
        """Submit batches with ids of our own, at a share of the load's rate."""
        async for count in self._at_rate(self.load.rate * (1 - QUICK_SHARE) / BATCH_PRODUCERS, BATCH_JOBS):
            jobs = [{"id": new_id(), **new_job(self.dice)} for _ in range(count)]
            await self._submit("/v1/jobs/batch", {"jobs": jobs}, jobs)

    async def submit_quick(self) -> None:
        """Submit batches that a server may hand over to a worker by the commit that records them."""
        async for count in self._at_rate(self.load.rate * QUICK_SHARE, QUICK_BATCH_JOBS):
            jobs = [new_quick_job(self.dice) for _ in range(count)]
            await self._submit("/v1/jobs/batch", {"jobs": jobs}, jobs, repeat=False)

    async def _at_rate(self, rate: float, sizes: tuple[int, int]) -> AsyncIterator[int]:
        """Yield the size of one batch after the other until the load drains; what an outage held up is made up for."""
        now = asyncio.get_running_loop().time
        due = now()
        while not self.load.is_draining.is_set():
            count = self.dice.randint(*sizes)
            yield count
            due += count / rate
            await self.rest(max(0.0, due - now()))

    async def submit_singles(self) -> None:
        """Submit one job at a time: with an id, a key, a unique key, no key at all, or a connection that is cut."""
        ways = (self._with_id, self._with_request_key, self._with_unique_key, self._without_key, self._cut)
        while not self.load.is_draining.is_set():
            await self.dice.choice(ways)(new_job(self.dice))
            await self.rest(SINGLE_PAUSE_SECONDS)

    async def _with_id(self, job: dict[str, Any]) -> None:
        await self._submit("/v1/jobs", {"id": new_id(), **job})

    async def _with_request_key(self, job: dict[str, Any]) -> None:
        key = new_id()
        await self._submit("/v1/jobs", job, key=key, headers={"Idempotency-Key": key})
        if self.dice.random() < 0.3:
            # The same request again must find its first try, whatever became of the job.
            await self._submit("/v1/jobs", job, key=key, headers={"Idempotency-Key": key})

    async def _with_unique_key(self, job: dict[str, Any]) -> None:
        unique_key = f"unique-{self.dice.randrange(UNIQUE_KEYS)}"
        await self._submit("/v1/jobs", {**job, "unique_key": unique_key}, unique_key=unique_key, is_merged=True)

    async def _without_key(self, job: dict[str, Any]) -> None:
        await self._submit("/v1/jobs", job, repeat=False)

    async def _cut(self, job: dict[str, Any]) -> None:
        """Send a submission and go away before its answer, sometimes before its end; then submit it properly."""
        body = {"id": new_id(), **job}
        note = {"what": "submit", "jobs": [[body["id"], job["payload"]["token"]]], "is_cut": True}
        self.history.write("invoke", call=(call := new_id()), **note)
        text = encoded(body)
        lines = (
            "POST /v1/jobs HTTP/1.1",
            "Host: quorra",
            f"X-API-Key: {self.load.key}",
            f"Content-Length: {len(text)}",
        )
        request = "\r\n".join((*lines, "", "")).encode() + text
        if self.dice.random() < 0.3:
            request = request[: self.dice.randrange(len(request))]
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._send_and_leave(request), REQUEST_SECONDS_MAX)
        self.history.write("unknown", call=call, what="submit", error="cut")
        await self._submit("/v1/jobs", body)

    async def _send_and_leave(self, request: bytes) -> None:
        url = httpx.URL(self.dice.choice(self.load.urls))
        _, writer = await asyncio.open_connection(url.host, url.port)
        try:
            writer.write(request)
            await writer.drain()
            await asyncio.sleep(self.dice.choice((0.0, 0.001, 0.003)))
        finally:
            writer.transport.abort()

    async def _submit(
        self, path: str, body: Any, jobs: list[dict[str, Any]] | None = None, *, repeat: bool = True, **more: Any
    ) -> None:
        headers = {"headers": more.pop("headers")} if "headers" in more else {}
        named = [[job.get("id"), job["payload"]["token"]] for job in (jobs or [body])]
        note = {"what": "submit", "jobs": named, **more}
        response = await self.ask("POST", path, body, repeat=repeat, note=note, **headers)
        if response is None or not response.is_success:
            return
        answer = response.json()
        ids = [job["id"] for job in answer.get("jobs", [answer])]
        self.load.recent.extend(ids[:5])
        if self.dice.random() < READ_BACK_SHARE:
            await self._read_back(self.dice.choice(ids))

    async def _read_back(self, job: str) -> None:
        """Look for a job that was just accepted, once, at any server."""
        url = self.dice.choice(self.load.urls)
        with contextlib.suppress(httpx.HTTPError, OSError):
            response = await self.load.http.get(f"{url}/v1/jobs/{job}")
            self.history.write("read_back", job=job, status=response.status_code)


class Operator(Client):
    """Cancels, retries, changes and replays."""

    async def operate(self) -> None:
        """Do one thing after another to jobs of the recent past, and to dead ones."""
        while not self.load.is_draining.is_set():
            await self.rest(OPERATOR_PAUSE_SECONDS)
            if not self.load.recent:
                continue
            job = self.dice.choice(self.load.recent)
            verb = self.dice.choice(("cancel", "cancel", "retry", "retry_failed", "replay", "change"))
            if verb == "replay":
                await self._replay()
            elif verb == "retry_failed":
                await self._retry_failed()
            elif verb == "change":
                await self.ask("PATCH", f"/v1/jobs/{job}", self._new_change(), note={"what": verb, "job": job})
            else:
                await self.ask("POST", f"/v1/jobs/{job}/{verb}", {}, note={"what": verb, "job": job})

    def _new_change(self) -> dict[str, Any]:
        return self.dice.choice(
            (
                {"priority": self.dice.randint(-2, 2)},
                {"delay_seconds": 1},
                {"max_retries": self.dice.randint(1, 3)},
                {"queue": self.dice.choice(("default", "bulk"))},
            )
        )

    async def _replay(self) -> None:
        ids = await self._listed("/v1/dead?limit=20", "list_dead")
        chosen = self.dice.sample(ids, min(3, len(ids)))
        if chosen:
            await self.ask("POST", "/v1/dead/replay", {"ids": chosen}, note={"what": "replay", "jobs": chosen})

    async def _retry_failed(self) -> None:
        """Retry a job that backs off: of the recent ones few do."""
        ids = await self._listed("/v1/jobs?status=failed&limit=20", "list_failed")
        if ids:
            job = self.dice.choice(ids)
            await self.ask("POST", f"/v1/jobs/{job}/retry", {}, note={"what": "retry", "job": job})

    async def _listed(self, path: str, what: str) -> list[str]:
        response = await self.ask("GET", path, note={"what": what})
        if response is None or not response.is_success:
            return []
        return [job["id"] for job in response.json()["jobs"]]


class Purger(Client):
    """Fills a queue that nobody works on, and empties it again.

    A try without an answer may still be under way, and take effect later. A purge makes the ids of its jobs free again,
    so that a submission that comes after it would be another one: after such a try nothing is done that it could undo.
    """

    async def submit_and_purge(self) -> None:
        """Do both in turn until the load drains; each round leaves the queue empty, so that every job has an end."""
        while not self.load.is_draining.is_set():
            jobs = [{"id": new_id(), **new_job(self.dice), "queue": PURGED_QUEUE} for _ in range(PURGED_JOBS)]
            if await self._submit_clearly(jobs):
                await self.rest(PURGE_PAUSE_SECONDS)
                await self._purge()
            else:
                await self._cancel(jobs)

    async def _submit_clearly(self, jobs: list[dict[str, Any]]) -> bool:
        """Submit jobs, and say whether no earlier try can come later."""
        before = self.unclear_tries
        named = [[job["id"], job["payload"]["token"]] for job in jobs]
        await self.ask("POST", "/v1/jobs/batch", {"jobs": jobs}, note={"what": "submit", "jobs": named})
        return self.unclear_tries == before

    async def _purge(self) -> None:
        """Empty the queue; a purge that takes long says that there is more."""
        before = self.unclear_tries
        note = {"what": "purge", "queue": PURGED_QUEUE}
        response = await self.ask("DELETE", f"/v1/queues/{PURGED_QUEUE}/jobs", note=note)
        while response is not None and response.is_success and response.json().get("more"):
            response = await self.ask("DELETE", f"/v1/queues/{PURGED_QUEUE}/jobs", note=note)
        if self.unclear_tries > before:
            await self.rest(UNDER_WAY_SECONDS)

    async def _cancel(self, jobs: list[dict[str, Any]]) -> None:
        """End jobs that keep their ids."""
        for job in jobs:
            await self.ask("POST", f"/v1/jobs/{job['id']}/cancel", {}, note={"what": "cancel", "job": job["id"]})


class Observer(Client):
    """Looks at jobs again and again, each time at any server."""

    async def observe(self) -> None:
        """Follow one job of the recent past after the other."""
        while not self.load.is_over.is_set():
            job = self.load.recent[-1] if self.load.recent else None
            for _ in range(LOOKS_PER_JOB):
                await asyncio.sleep(OBSERVER_PAUSE_SECONDS)
                if job is not None:
                    await self._look(job)

    async def _look(self, job: str) -> None:
        url, asked_at = self.dice.choice(self.load.urls), time.time()
        with contextlib.suppress(httpx.HTTPError, OSError):
            response = await self.load.http.get(f"{url}/v1/jobs/{job}")
            if response.is_success:
                seen = response.json()
                self.history.write(
                    "seen",
                    job=job,
                    asked_at=asked_at,
                    state=seen["status"],
                    attempts=seen["attempts"],
                    generation=seen["generation"],
                )


class PlainWorker(Client):
    """Works the plain way, and badly: late, doubled, forged and forgotten reports."""

    async def work(self) -> None:
        """Lease a few jobs at a time, and do something to each."""
        while not self.load.is_over.is_set():
            address = self.dice.choice(self.load.grpc_addresses)
            try:
                async with grpc.aio.insecure_channel(address) as channel:
                    for _ in range(10):
                        await self._round(WorkerServiceStub(channel))
            except grpc.aio.AioRpcError as error:
                self.history.write("plain_unknown", error=error.code().name)
                await asyncio.sleep(0.2)

    async def _round(self, stub: Any) -> None:
        is_draining = self.load.is_draining.is_set()
        request = pb.LeaseRequest(
            worker_id=f"plain-{os.getpid()}",
            queues=["default", "bulk"],
            types=["plain"],
            max_jobs=PLAIN_JOBS,
            lease_ttl_seconds=PLAIN_LEASE_SECONDS,
            wait_seconds=1,
        )
        jobs = [job async for job in stub.LeaseJobs(request, metadata=self._metadata, timeout=REQUEST_SECONDS_MAX)]
        for job in jobs:
            self.history.write("plain_leased", job=job.id, lease=job.lease_id, attempt=job.attempts + 1)
        ways: list[Callable[[Any, pb.Job], Awaitable[None]]] = [self._ack]
        if not is_draining:
            ways = [
                self._ack,
                self._ack,
                self._ack_twice,
                self._nack_then_ack,
                self._ack_late,
                self._forge,
                self._forget,
            ]
        await asyncio.gather(*(self.dice.choice(ways)(stub, job) for job in jobs))

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-api-key", self.load.key),)

    async def _ack(self, stub: Any, job: pb.Job) -> None:
        await self._report(stub.AckJob, "succeeded", pb.JobAck(job_id=job.id, lease_id=job.lease_id, success=True))

    async def _ack_twice(self, stub: Any, job: pb.Job) -> None:
        await asyncio.gather(self._ack(stub, job), self._ack(stub, job))
        await self._ack(stub, job)

    async def _nack_then_ack(self, stub: Any, job: pb.Job) -> None:
        nack = pb.JobAck(job_id=job.id, lease_id=job.lease_id, error_message="as planned", retry_after_ms=100)
        await self._report(stub.NackJob, "failed", nack)
        await self._ack(stub, job)

    async def _ack_late(self, stub: Any, job: pb.Job) -> None:
        """Outlive the lease, try to bring it back to life, and report."""
        await asyncio.sleep(PLAIN_LEASE_SECONDS + self.dice.uniform(0.0, 1.5))
        if self.dice.random() < 0.5:
            await self._renew(stub, job, job.lease_id)
        await self._ack(stub, job)

    async def _forge(self, stub: Any, job: pb.Job) -> None:
        """Guess: a lease id with another secret, renewed and reported; then leave the true one to run out."""
        forged = job.lease_id[:-4] + ("0000" if job.lease_id[-4:] != "0000" else "ffff")
        await self._renew(stub, job, forged)
        await self._report(
            stub.AckJob, "succeeded", pb.JobAck(job_id=job.id, lease_id=forged, success=True), forged=True
        )

    async def _forget(self, stub: Any, job: pb.Job) -> None:
        self.history.write("plain_forgot", job=job.id, lease=job.lease_id)

    async def _renew(self, stub: Any, job: pb.Job, lease_id: str) -> None:
        request = pb.HeartbeatRequest(
            worker_id="plain", boot_id="plain", lease_ids=[lease_id], lease_ttl_seconds=PLAIN_LEASE_SECONDS
        )
        reply = await stub.Heartbeat(request, metadata=self._metadata, timeout=REQUEST_SECONDS_MAX)
        ended = [entry.lease_id for entry in reply.ended]
        self.history.write(
            "plain_renewed", job=job.id, lease=lease_id, forged=lease_id != job.lease_id, kept=lease_id not in ended
        )

    async def _report(self, call: Any, kind: str, ack: pb.JobAck, *, forged: bool = False) -> None:
        ack.worker_id = "plain"
        self.history.write("plain_reports", lease=ack.lease_id, kind=kind, forged=forged)
        try:
            reply = await call(ack, metadata=self._metadata, timeout=REQUEST_SECONDS_MAX)
        except grpc.aio.AioRpcError as error:
            self.history.write("plain_told", lease=ack.lease_id, kind=kind, forged=forged, answer=error.code().name)
            return
        answer = "acknowledged" if reply.acknowledged else reply.message.partition(":")[0]
        self.history.write("plain_told", lease=ack.lease_id, kind=kind, forged=forged, answer=answer)


def encoded(body: Any) -> bytes:
    """Return the JSON of a body, the same on every repetition: a key belongs to the text that it came with."""
    return b"" if body is None else json.dumps(body).encode()


def _code(response: httpx.Response) -> str:
    try:
        return str(response.json().get("code", ""))
    except (ValueError, AttributeError):
        return "unreadable"


def main() -> None:
    """Run the clients."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--http", required=True)
    parser.add_argument("--grpc", required=True)
    parser.add_argument("--key", default=os.environ.get("QUORRA_API_KEY", ""))
    parser.add_argument("--folder", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=600.0)
    parser.add_argument("--lease-seconds", type=float, default=3.0)
    parser.add_argument("--purges", action="store_true", help="purge a queue that nobody works on, again and again")
    asyncio.run(Load(parser.parse_args()).run())


if __name__ == "__main__":
    main()
