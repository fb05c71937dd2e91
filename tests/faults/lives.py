"""Lives of jobs for tests of the judge: each transaction as PostgreSQL's log has it, each line as clients note it.

All begin at `AT` and are right; tests say what is different.
"""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.faults.judging.judge import Judge, Quotas, Verdict
from tests.faults.judging.pgoutput import Change, Row, Transaction

JOB, OTHER = "01a20000-0000-7000-8000-000000000001", "01a20000-0000-7000-8000-000000000002"
TOKENS = {JOB: "token-1", OTHER: "token-2"}
AT = 1_800_000_000.0
LEASE_SECONDS = 10.0
NO_QUOTAS = Quotas(
    reclaims=0, refused=0, ambiguous=0, restarts=0, jobs=0, handed_over=0, faults=0, each_kind=0, checks=0
)

Line = dict[str, Any]


# Transactions.


def at(seconds: float, transaction: Transaction) -> Transaction:
    """Return a transaction that commits so long after the beginning."""
    return replace(transaction, committed_at=AT + seconds)


def recorded(
    job: str = JOB, *, delay: int = 0, unique_key: str | None = None, max_retries: int = 3, token: str = ""
) -> Transaction:
    row: Row = {"id": job, "type": "work", "queue": "q", "unique_key": unique_key, "backoff": None}
    row["max_retries"] = str(max_retries)
    row["payload"] = json.dumps({"token": token or TOKENS[job], "plan": "o", "delay": delay})
    return _transaction(Change("insert", "jobs", row))


def submitted(job: str = JOB, *, due_in: float = 0.0, **more: Any) -> Transaction:
    waiting = Change("insert", "ready", _waiting(job, due_in, deliveries=0))
    return _transaction(*recorded(job, **more).changes, waiting)


def handed_over(job: str = JOB, *, batch: int = 1, delay: int = 0) -> Transaction:
    """A job that is leased by the transaction that records it."""
    return joined(recorded(job, delay=delay), leased(job, batch=batch, waited=False))


def leased(
    *jobs: str, batch: int = 1, waited: bool = True, after: float = 0.0, attempts: int = 0, queue: str = "q"
) -> Transaction:
    jobs = jobs or (JOB,)
    row: Row = {"batch": str(batch), "leased_at": _moment(after), "expires_at": _moment(after + LEASE_SECONDS)}
    row |= {"worker": "w", "queue": queue, "job_ids": f"{{{','.join(jobs)}}}"}
    row |= {"attempts": _array([attempts] * len(jobs)), "starts_ms": _array([-1] * len(jobs))}
    left = [Change("delete", "ready", {"job_id": job}) for job in jobs] if waited else []
    return _transaction(*left, Change("insert", "leases", row))


def renewed(expires_in: float, *, start: int = -1) -> Transaction:
    row: Row = {"batch": "1", "expires_at": _moment(expires_in), "starts_ms": f"{{{start}}}"}
    return _transaction(Change("update", "leases", row))


def ended(kind: str = "succeeded", job: str = JOB, *, batch: int = 1, **different: Any) -> Transaction:
    """The outcome of a lease; a time in `different` counts from the beginning."""
    is_over = kind in ("succeeded", "cancelled", "dead")
    row: dict[str, Any] = {"job_id": job, "batch": str(batch), "kind": "failed" if kind == "dead" else kind}
    row |= {"leased_at": 0.0, "ended_at": 1.0, "started_at": None if kind == "expired" else 0.0, "worker": ""}
    row |= {"status": kind if is_over else None, "retry_at": None if is_over else 3.0 if kind == "failed" else 1.0}
    row |= {"attempts": "0" if kind in ("expired", "released") else "1", "deliveries": "1", "generation": "1"}
    row |= {"late": "f", **different}
    texts = {name: _moment(value) if isinstance(value, float) else value for name, value in row.items()}
    return _transaction(Change("insert", "outcomes", texts))


def overwritten() -> Transaction:
    """An outcome that becomes another one."""
    return _transaction(Change("update", "outcomes", ended("failed").changes[0].row))


def again(job: str = JOB, *, due_in: float = 0.0, **different: str) -> Transaction:
    return _transaction(Change("insert", "ready", {**_waiting(job, due_in, deliveries=1), **different}))


def replayed(job: str = JOB) -> Transaction:
    """A dead job's second life begins."""
    marked = {**(ended("dead", job).changes[0].row), "replayed_at": _moment(2)}
    return _transaction(Change("update", "outcomes", marked), *again(job, generation="2").changes)


def rescheduled(job: str = JOB, *, due_in: float = 0.0) -> Transaction:
    """A job that waits is given another time."""
    return _transaction(Change("update", "ready", _waiting(job, due_in, deliveries=0)))


def left_the_line(job: str = JOB) -> Transaction:
    return _transaction(Change("delete", "ready", {"job_id": job}))


def purged(job: str = JOB, *, waited: bool = True) -> Transaction:
    left = left_the_line(job).changes if waited else []
    return _transaction(*left, Change("delete", "jobs", {"id": job}))


def closed(batch: int = 1) -> Transaction:
    return _transaction(Change("delete", "leases", {"batch": str(batch)}))


def joined(*transactions: Transaction) -> Transaction:
    """Return one transaction that does what several do."""
    return _transaction(*(change for transaction in transactions for change in transaction.changes))


def _transaction(*changes: Change) -> Transaction:
    return Transaction(1, AT, list(changes))


def _waiting(job: str, due_in: float, *, deliveries: int) -> Row:
    counts = {"attempts": "0", "deliveries": str(deliveries), "generation": "1"}
    return {"job_id": job, "rank": "0", "run_at": _moment(due_in), "queue": "q", "type": "work", **counts}


def _array(numbers: list[int]) -> str:
    return f"{{{','.join(map(str, numbers))}}}"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(AT + seconds, UTC).isoformat(sep=" ")


# Lines of histories.


def lease_text(job: str = JOB, batch: int = 1) -> str:
    """Return a lease id as workers see it."""
    return f"1.{job.replace('-', '')}.{batch:x}.00"


def asked(what: str, *, call: str = "c", after: float = 0.0, **fields: Any) -> Line:
    return {"event": "invoke", "at": AT + after, "call": call, "what": what, **fields}


def answered(what: str, *, call: str = "c", after: float = 1.0, status: int = 200, **fields: Any) -> Line:
    return {"event": "ok", "at": AT + after, "call": call, "what": what, "status": status, **fields}


def submission(job: str = JOB, *, call: str = "submission", **fields: Any) -> list[Line]:
    """A submission and its answer."""
    invoke = asked("submit", call=call, jobs=[[job, TOKENS[job]]], **fields)
    return [invoke, answered("submit", call=call, status=201, jobs=[[job, False]])]


def seen(state: str, *, asked_after: float, after: float, generation: int = 1) -> Line:
    """What an observer saw of the job, some time after the beginning."""
    looked = {"asked_at": AT + asked_after, "at": AT + after}
    return {"event": "seen", "job": JOB, "state": state, "attempts": 1, "generation": generation, **looked}


def run_of(job: str = JOB, batch: int = 1) -> list[Line]:
    """What a worker writes of a run that returns."""
    return [{"event": event, "job": job, "lease": lease_text(job, batch)} for event in ("started", "returned")]


def told(kind: str, answer: str, *, forged: bool = False) -> Line:
    """What a plain worker was told of its report for the first lease."""
    return {"event": "plain_told", "lease": lease_text(), "kind": kind, "forged": forged, "answer": answer}


def receipt(kind: str, lease: str = "", *, refused: str | None = None) -> Line:
    """A receipt of one report: accepted, or refused for a reason."""
    lease = lease or lease_text()
    accepted = {} if refused else {kind: [lease]}
    return {"event": "receipted", "accepted": accepted, "refused": [[lease, kind, refused]] if refused else []}


def fault(kind: str = "worker.kill", hits: int = 1, *, holds_up: bool = False) -> Line:
    return {"event": "fault", "kind": kind, "began": AT, "ended": AT, "hits": hits, "holds_up": holds_up}


# Judging.


def judged(folder: Path, quotas: Quotas, transactions: list[Transaction], lines: list[Line]) -> Verdict:
    """Judge what a database committed and clients wrote."""
    write_history(folder, lines)
    (folder / "oracle.bin").write_bytes(b"")
    judge = Judge(folder, quotas)
    judge.fold.watched = {JOB, OTHER}
    judge.fold.play(transactions)
    return judge.judge()


def write_history(folder: Path, lines: list[Line]) -> None:
    history = [json.dumps({"at": AT, **line}, separators=(",", ":")) for line in lines]
    (folder / "client-1.jsonl").write_text("".join(f"{line}\n" for line in history))
