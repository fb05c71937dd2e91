"""How runs end, whatever a handler does: in processes, in threads, by exits and by cancellations of its own."""

from pathlib import Path

import pytest

from tests.support.processes import RunningServer, start_worker
from tests.support.rest import Rest
from tests.support.waiting import eventually_sync, eventually_text

MODULE = """
    import asyncio
    import sys
    import time
    from datetime import timedelta
    from pathlib import Path
    from typing import Any

    import pydantic
    from quorra_worker_sdk import Cancel, Context, Dead, LeaseLost, Retry, RetryAfter, Snooze, Worker

    worker = Worker(slots=5, lease_ttl=timedelta(seconds=2))

    class Invoice(pydantic.BaseModel):
        number: int

    @worker.job("model", executor="process")
    def model(invoice: Invoice) -> Invoice:
        return Invoice(number=invoice.number + 1)

    @worker.job("nothing", executor="process")
    def nothing() -> None: ...

    @worker.job("outcome", executor="process")
    def outcome(kind: str) -> None:
        if not Path(kind).exists():
            Path(kind).touch()
            raise {"snooze": Snooze(0.05, "later"), "retry": RetryAfter(0.05, "busy"), "cancel": Cancel("no"),
                   "dead": Dead("never")}[kind]

    @worker.job("gives_up", executor="process", retry=Retry(give_up_on=(KeyError,)))
    def gives_up() -> None:
        raise KeyError("x")

    @worker.job("unwritable", executor="process")
    def unwritable() -> Any:
        return lambda: None

    def added(n: int) -> int:
        return n * 2

    worker.add("added", added, executor="process")

    @worker.job("exits")
    async def exits() -> None:
        sys.exit("a library gave up")

    @worker.job("exits_in_thread")
    def exits_in_thread() -> None:
        sys.exit(3)

    @worker.job("cancels_itself")
    async def cancels_itself() -> None:
        raise asyncio.CancelledError("a future of its own")

    @worker.job("cancels_its_task")
    async def cancels_its_task() -> None:
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    class Panic(BaseException):
        pass

    class Speechless(Snooze):
        def __init__(self) -> None:
            pass

    ERRORS = {
        "panic": Panic("of another language"),
        "surrogate": OSError("no file na\\udcefve"),
        "list": ValueError("listed"),
        "dead": Dead(KeyError("an error where the text belongs")),
        "speechless": Speechless(),
    }

    @worker.job("unusual", retry=Retry(give_up_on=[ValueError]))
    async def unusual(kind: str) -> None:
        raise ERRORS[kind]

    @worker.job("group")
    async def group(kind: str) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(outcome_once(kind))

    async def outcome_once(kind: str) -> None:
        outcome(kind)

    @worker.job("process_panics", executor="process")
    def process_panics() -> None:
        raise Panic("of another language")

    @worker.job("process_group", executor="process")
    def process_group() -> None:
        raise BaseExceptionGroup("as of a TaskGroup", [Dead("never")])

    @worker.job("unkeepable")
    async def unkeepable(kind: str) -> Any:
        deep: list[Any] = []
        for _ in range(100):
            deep = [deep]
        return {"zero": "a\\0b", "deep": deep}[kind]

    @worker.job("says_much")
    async def says_much(ctx: Context[Any]) -> None:
        ctx.log_line("x" * 30_000_000, "warning")
        ctx.progress(1, 2, "x" * 30_000_000)

    @worker.job("keeps_much")
    async def keeps_much(ctx: Context[Any], size: int) -> None:
        ctx.progress(1, 2, "told")
        ctx.checkpoint("x" * size)

    @worker.job("extends_at_its_end", timeout=timedelta(seconds=20))
    async def extends_at_its_end(ctx: Context[Any]) -> None:
        ctx.extend(timedelta(seconds=1))

    @worker.job("thread_hears")
    def thread_hears(ctx: Context[Any]) -> None:
        try:
            while True:
                ctx.progress(1)
                time.sleep(0.02)
        except LeaseLost as lost:
            Path("heard").write_text(str(lost))
            raise

    @worker.job("thread_times_out", timeout=timedelta(seconds=0.3))
    def thread_times_out(ctx: Context[Any]) -> None:
        while not ctx.cancelled():
            time.sleep(0.02)
        Path("timed_out").write_text(ctx.cancelled() or "")

    @worker.job("child")
    async def child(n: int) -> int:
        return n + 1

    @worker.job("parent_in_thread")
    def parent_in_thread() -> int:
        return child.enqueue_sync(n=1).result_sync(timeout=timedelta(seconds=20))

    @worker.job("parent")
    async def parent() -> int:
        return await (await child.enqueue(n=2)).result(timeout=timedelta(seconds=20))
"""


@pytest.fixture
def rest(server: RunningServer) -> Rest:
    return Rest(server)


def test_runs_in_another_process_end_like_any_other(server: RunningServer, rest: Rest, tmp_path: Path) -> None:
    with start_worker(server, MODULE, tmp_path):
        model = rest.ended(rest.submit("model", {"number": 1}))
        nothing = rest.ended(rest.submit("nothing"))
        added = rest.ended(rest.submit("added", {"n": 21}))
        snoozed, retried, cancelled, dead = (
            rest.ended(rest.submit("outcome", {"kind": kind})) for kind in ("snooze", "retry", "cancel", "dead")
        )
        gave_up = rest.ended(rest.submit("gives_up"))
        unwritable = rest.ended(rest.submit("unwritable", max_retries=0))
        misfit = rest.ended(rest.submit("model", {"number": "many"}))

    assert ("succeeded", {"number": 2}) == (model["status"], model["result"])
    assert ("succeeded", None) == (nothing["status"], nothing["result"])
    assert 42 == added["result"]
    assert ("succeeded", 1, 2) == (snoozed["status"], snoozed["attempts"], snoozed["deliveries"])
    assert ("succeeded", 2) == (retried["status"], retried["attempts"])
    assert "cancelled" == cancelled["status"]
    assert ("dead", "never") == (dead["status"], dead["last_error"])
    assert ("dead", 1) == (gave_up["status"], gave_up["attempts"])
    assert "cannot be written as JSON" in unwritable["last_error"]
    assert ("dead", 1) == (misfit["status"], misfit["attempts"])


def test_an_exit_or_a_cancellation_of_the_handlers_own_is_a_failed_run(
    server: RunningServer, rest: Rest, tmp_path: Path
) -> None:
    with start_worker(server, MODULE, tmp_path) as worker:
        ended = [
            rest.ended(rest.submit(kind, max_retries=0)) for kind in ("exits", "exits_in_thread", "cancels_itself")
        ]
        still_works = rest.ended(rest.submit("child", {"n": 1}))["result"]

        assert worker.is_alive
    assert [("dead", 1)] * 3 == [(job["status"], job["attempts"]) for job in ended]
    assert ["SystemExit", "SystemExit", "CancelledError"] == [
        next(name for name in ("SystemExit", "CancelledError") if name in job["last_error"]) for job in ended
    ]
    assert 2 == still_works


def test_a_handler_whose_own_code_cancels_its_task_has_failed(
    server: RunningServer, rest: Rest, tmp_path: Path
) -> None:
    with start_worker(server, MODULE, tmp_path):
        ended = rest.ended(rest.submit("cancels_its_task", max_retries=0))

    assert ("dead", 1) == (ended["status"], ended["attempts"])
    assert "cancelled by its own code or a library" in ended["last_error"]


def test_errors_that_cannot_be_reported_as_they_are_end_their_runs_all_the_same(
    server: RunningServer, rest: Rest, tmp_path: Path
) -> None:
    with start_worker(server, MODULE, tmp_path) as worker:
        panic, surrogate, speechless = (
            rest.ended(rest.submit("unusual", {"kind": kind}, max_retries=0))
            for kind in ("panic", "surrogate", "speechless")
        )
        listed, dead = (rest.ended(rest.submit("unusual", {"kind": kind})) for kind in ("list", "dead"))
        far_away = rest.ended(rest.submit("process_panics", max_retries=0))

        assert worker.is_alive
    assert "Panic: of another language" in panic["last_error"]
    assert "no file na\\udcefve" in surrogate["last_error"]
    assert "Speechless, which cannot be reported" in speechless["last_error"]
    assert ("dead", 1) == (listed["status"], listed["attempts"])
    assert ("dead", 1, "'an error where the text belongs'") == (dead["status"], dead["attempts"], dead["last_error"])
    assert "Panic: of another language" in far_away["last_error"]


def test_an_outcome_that_is_raised_in_a_task_group_counts(server: RunningServer, rest: Rest, tmp_path: Path) -> None:
    with start_worker(server, MODULE, tmp_path):
        snoozed, retried, cancelled, dead = (
            rest.ended(rest.submit("group", {"kind": kind})) for kind in ("snooze", "retry", "cancel", "dead")
        )
        far_away = rest.ended(rest.submit("process_group"))

    assert ("succeeded", 1, 2) == (snoozed["status"], snoozed["attempts"], snoozed["deliveries"])
    assert ("succeeded", 2) == (retried["status"], retried["attempts"])
    assert "cancelled" == cancelled["status"]
    assert [("dead", "never")] * 2 == [(job["status"], job["last_error"]) for job in (dead, far_away)]


def test_a_result_that_the_server_refuses_is_a_failure(server: RunningServer, rest: Rest, tmp_path: Path) -> None:
    with start_worker(server, MODULE, tmp_path):
        ended = [rest.ended(rest.submit("unkeepable", {"kind": kind})) for kind in ("zero", "deep")]

    assert [("dead", 1)] * 2 == [(job["status"], job["attempts"]) for job in ended]
    assert ["the server did not take the outcome"] * 2 == [job["last_error"].partition(":")[0] for job in ended]


def test_long_lines_and_notes_are_cut_before_they_burden_the_stream(
    server: RunningServer, rest: Rest, tmp_path: Path
) -> None:
    with start_worker(server, MODULE, tmp_path):
        ended = rest.ended(rest.submit("says_much"))
        told = eventually_sync(lambda: rest.job(ended["id"]).get("progress"), "progress is kept")
        lines = rest.http.get(f"/v1/jobs/{ended['id']}/logs").json()["lines"]

    assert "succeeded" == ended["status"]
    assert [("warning", 4 * 1024)] == [(line["level"], len(line["message"])) for line in lines]
    assert told is not None
    assert 16 * 1024 == len(told["note"])


def test_a_checkpoint_over_the_servers_bound_fails_its_run_by_name(
    server: RunningServer, rest: Rest, tmp_path: Path
) -> None:
    """It would not be kept, and would take along what other handlers said in that moment."""
    with start_worker(server, MODULE, tmp_path):
        small, large, huge = (
            rest.ended(rest.submit("keeps_much", {"size": size}, max_retries=0))
            for size in (250_000, 300_000, 30_000_000)
        )

    assert "succeeded" == small["status"]
    for ended in (large, huge):
        assert "PayloadTooLarge: the checkpoint has" in ended["last_error"]
        assert "told" == ended["progress"]["note"]


def test_an_extension_in_the_last_moment_is_no_error(server: RunningServer, rest: Rest, tmp_path: Path) -> None:
    with start_worker(server, MODULE, tmp_path) as worker:
        ended = rest.ended(rest.submit("extends_at_its_end"))
        worker.terminate()

        assert "Exception in callback" not in worker.log
    assert "succeeded" == ended["status"]


def test_a_thread_hears_that_its_run_is_over(server: RunningServer, rest: Rest, tmp_path: Path) -> None:
    with start_worker(server, MODULE, tmp_path):
        job_id = rest.submit("thread_hears")
        rest.until(job_id, "processing")
        rest.http.post(f"/v1/jobs/{job_id}/cancel")
        assert "cancelled" in eventually_text(tmp_path / "heard", "LeaseLost reached the thread")
        rest.ended(rest.submit("thread_times_out", max_retries=0))
        assert "timeout" == eventually_text(tmp_path / "timed_out", "the thread heard of its timeout")


def test_handlers_enqueue_from_the_loop_and_from_threads(server: RunningServer, rest: Rest, tmp_path: Path) -> None:
    with start_worker(server, MODULE, tmp_path):
        results = [rest.ended(rest.submit(kind))["result"] for kind in ("parent_in_thread", "parent")]

    assert [2, 3] == results
