"""The embedded PostgreSQL: keeps its data, dies with its owner, survives being killed."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg
from quorra_server import embedded

from tests.support.waiting import eventually_sync

OWNER = """
import sys, time
from pathlib import Path
from quorra_server import embedded
with embedded.start(Path(sys.argv[1])) as postgres:
    print(postgres.dsn, flush=True)
    time.sleep(600)
"""


def _run(dsn: str, statement: str) -> object:
    async def go() -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(go())


def _postmaster(folder: Path) -> int:
    (file,) = folder.glob("*/postmaster.pid")
    return int(file.read_text().split()[0])


def _is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]


def test_data_is_kept_between_runs_and_commits_are_durable(tmp_path: Path) -> None:
    with embedded.start(tmp_path / "pg") as postgres:
        _run(postgres.dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
        assert ("on", "on") == (_run(postgres.dsn, "SHOW fsync"), _run(postgres.dsn, "SHOW synchronous_commit"))

    with embedded.start(tmp_path / "pg") as postgres:
        assert 42 == _run(postgres.dsn, "SELECT answer FROM kept")


def test_it_dies_with_an_owner_that_was_killed(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path / "pg")], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline().startswith("postgresql://")
    pid = _postmaster(tmp_path / "pg")

    owner.kill()
    owner.wait()
    owner.stdout.close()

    eventually_sync(lambda: _is_gone(pid), "PostgreSQL is gone", timeout=15)


def test_a_killed_postgresql_recovers_at_the_next_start(tmp_path: Path) -> None:
    with embedded.start(tmp_path / "pg") as postgres:
        _run(postgres.dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
        pid = _postmaster(tmp_path / "pg")
        os.kill(pid, signal.SIGKILL)
        eventually_sync(lambda: _is_gone(pid), "it is gone")

    with embedded.start(tmp_path / "pg") as postgres:
        assert 42 == _run(postgres.dsn, "SELECT answer FROM kept")


def test_its_password_is_random_and_for_its_owner_only(tmp_path: Path) -> None:
    with embedded.start(tmp_path / "pg") as postgres:
        file = tmp_path / "pg" / "password"

        assert 0o600 == file.stat().st_mode & 0o777
        assert len(postgres.password) >= 24
        assert postgres.password not in repr(postgres)
