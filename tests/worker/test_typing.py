"""The types of the SDK: good use passes both type checkers, wrong arguments fail in both."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

GOOD = """
from datetime import timedelta
import asyncpg
import psycopg
from quorra_worker_sdk import Context, Worker, inbox, sql
from quorra_worker_sdk.testing import TestWorker
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

worker: Worker[int] = Worker("localhost:1")

@worker.job("send")
async def send(ctx: Context[int], to: str, subject: str = "hi") -> str:
    return to * ctx.deps

@worker.job("render", executor="process")
def render(pages: int) -> bytes:
    return b"x" * pages

@worker.job("pay")
async def pay(ctx: Context[int], cents: int) -> None:
    connection = await asyncpg.connect("postgres:///shop")
    async with ctx.transaction(connection) as run:
        run.result = cents

@worker.job("pay_in_thread")
def pay_in_thread(ctx: Context[int], cents: int) -> None:
    with psycopg.connect("postgres:///shop") as connection, ctx.transaction(connection) as run:
        run.result = cents

async def submit(first: "psycopg.AsyncConnection[tuple[int]]", second: AsyncSession) -> list[str]:
    return [(await sql.enqueue(connection, send.new_job(to="x"))).id for connection in (first, second)]

def submit_in_thread(first: "psycopg.Connection[tuple[int]]", second: Session, ctx: Context[int]) -> bool:
    existing: bool = sql.enqueue(first, pay.new_job(7)).existing
    return inbox.enter(second, ctx.job) and existing

async def use() -> None:
    done = await send.options(delay=timedelta(hours=1)).enqueue(to="a@b.c")
    text: str = await done.result()
    pages: bytes = await (await render.enqueue(3)).result()
    print(text, pages)

def use_without_a_loop() -> str:
    return send.enqueue_sync("a@b.c").result_sync()

def test_it() -> None:
    with TestWorker(worker, deps=2) as test:
        test.assert_enqueued(send, {"to": "a@b.c"})
        test.drain_sync()
"""
BAD = {
    "a wrong type": "await send.enqueue(to=7)",
    "a missing argument": "await send.enqueue()",
    "an unknown argument": 'await send.enqueue(to="x", cc="y")',
    "an awaited result of a synchronous connection": 'await sql.enqueue(psycopg.connect(), send.new_job(to="x"))',
    "a wrong type without a loop": "send.enqueue_sync(to=7)",
    "dependencies of a wrong type": 'TestWorker(worker, deps="two")',
    "a wrong result": 'number: int = await (await send.enqueue(to="x")).result()',
}


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_good_use_passes(checker: str, tmp_path: Path) -> None:
    file = tmp_path / "good.py"
    file.write_text(GOOD)

    code, output = _check(checker, file)

    assert 0 == code, output


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_each_wrong_use_is_an_error(checker: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    lines = [f"    {line}" for line in BAD.values()]
    file.write_text(GOOD + "\nasync def misuse() -> None:\n" + "\n".join(lines) + "\n")
    first = len(GOOD.splitlines()) + 3

    code, output = _check(checker, file)

    assert 0 != code
    missed = [name for number, name in enumerate(BAD) if f"bad.py:{first + number}" not in output]
    assert [] == missed, output


def _check(checker: str, file: Path) -> tuple[int, str]:
    if checker == "mypy":
        command = [sys.executable, "-m", "mypy", "--strict", f"--config-file={ROOT / 'pyproject.toml'}", str(file)]
    else:
        command = [sys.executable, "-m", "pyright", f"--pythonpath={sys.executable}", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=180, check=False)
    return done.returncode, done.stdout + done.stderr
