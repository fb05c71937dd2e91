"""Failures over real processes: back-off, dead letters, and what people see of them."""

from datetime import datetime
from pathlib import Path

from tests.support.processes import RunningServer, start_worker
from tests.support.rest import Rest

MODULE = """
    from datetime import timedelta
    from quorra_worker_sdk import Cancel, Context, Dead, Retry, RetryAfter, Snooze, Worker

    worker = Worker(slots=5)

    @worker.job("fails")
    async def fails(n: int = 0) -> None:
        raise RuntimeError("the printer is on fire")

    @worker.job("second_time_lucky")
    async def second_time_lucky(ctx: Context[None]) -> str:
        if ctx.job.attempt == 1:
            raise RetryAfter(timedelta(milliseconds=50), "not yet")
        return ctx.idempotency_key

    @worker.job("snoozes")
    async def snoozes(ctx: Context[None]) -> int:
        if not ctx.last_checkpoint():
            ctx.checkpoint({"seen": True})
            raise Snooze(0.3)
        return ctx.job.attempt

    @worker.job("hopeless")
    async def hopeless() -> None:
        raise Dead("no retry can mend this")

    @worker.job("unwanted")
    async def unwanted() -> None:
        raise Cancel("not needed any more")

    @worker.job("gives_up", retry=Retry(give_up_on=(KeyError,)))
    async def gives_up() -> None:
        raise KeyError("x")

    @worker.job("typed")
    async def typed(count: int, name: str = "x") -> None: ...
"""


def test_failures_over_real_processes(server: RunningServer, tmp_path: Path) -> None:
    rest = Rest(server)
    with start_worker(server, MODULE, tmp_path):
        failing = rest.until(rest.submit("fails"), "failed")
        dead = rest.ended(rest.submit("fails", max_retries=0))
        lucky = rest.ended(rest.submit("second_time_lucky"))
        snoozed = rest.ended(rest.submit("snoozes"))
        hopeless = rest.ended(rest.submit("hopeless"))
        unwanted = rest.ended(rest.submit("unwanted"))
        gave_up = rest.ended(rest.submit("gives_up"))
        misfit = rest.ended(rest.submit("typed", {"count": "many"}))
        unknown = rest.submit("nobody_knows")

    assert (1, 2) == (failing["attempts"], round(_seconds(failing["updated_at"], failing["run_at"])))
    assert ("dead", 1) == (dead["status"], dead["attempts"])
    assert "RuntimeError: the printer is on fire" in dead["errors"][0]["error"]
    assert "Traceback" in dead["errors"][0]["error"]
    assert ("succeeded", 2, f"{lucky['id']}-1") == (lucky["status"], lucky["attempts"], lucky["result"])
    assert ("succeeded", 1, 2) == (snoozed["status"], snoozed["attempts"], snoozed["deliveries"])
    assert ("dead", "no retry can mend this") == (hopeless["status"], hopeless["last_error"])
    assert "cancelled" == unwanted["status"]
    assert ("dead", "non_retryable", 1) == (gave_up["status"], gave_up["dead_because"], gave_up["attempts"])
    assert ("dead", 1) == (misfit["status"], misfit["attempts"])
    assert "count" in misfit["last_error"]
    assert rest.job(unknown)["attempts"] == 0


def test_the_back_off_of_a_job_that_goes_on_failing_is_2_4_8_seconds(server: RunningServer, tmp_path: Path) -> None:
    rest = Rest(server)
    job_id = rest.submit("fails", max_retries=3)
    waits = []
    with start_worker(server, MODULE, tmp_path):
        for _ in range(3):
            failed = rest.until(job_id, "failed")
            waits.append(_seconds(failed["updated_at"], failed["run_at"]))
            # Retrying a failed job runs it now: nobody has to wait.
            rest.http.post(f"/v1/jobs/{job_id}/retry")
        dead = rest.ended(job_id)

    assert [2, 4, 8] == [round(seconds) for seconds in waits]
    assert ("dead", 4) == (dead["status"], dead["attempts"])
    assert 4 == len(dead["errors"])


def _seconds(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
