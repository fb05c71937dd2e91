"""The embedded PostgreSQL: keeps its data, dies with its owner, survives being killed."""

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
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
OWNER_WITHOUT_ROOM = """
import resource, sys
from pathlib import Path
from quorra_server import embedded
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
try:
    embedded.start(Path(sys.argv[1]))
except embedded.EmbeddedUnavailable as error:
    print(error)
"""
# As far as the real one is after its first moments; it goes on when somebody writes to the pipe.
INITDB = """#!/bin/sh
for word; do case "$word" in --pgdata=*) data="${word#--pgdata=}" ;; esac; done
mkdir -p "$data" && echo 18 > "$data/PG_VERSION" && read -r _ < "${0%/*}/pipe"
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


def test_a_killed_postgresql_is_started_again_while_its_owner_lives(tmp_path: Path) -> None:
    with embedded.start(tmp_path / "pg") as postgres:
        _run(postgres.dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
        os.kill(_postmaster(tmp_path / "pg"), signal.SIGKILL)

        assert 42 == eventually_sync(lambda: _answer(postgres.dsn), "it answers again", timeout=20)


def _answer(dsn: str) -> object:
    try:
        return _run(dsn, "SELECT answer FROM kept")
    except (OSError, asyncpg.PostgresError):
        return None


def test_a_second_owner_of_the_same_data_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with embedded.start(tmp_path / "pg") as postgres:
        with pytest.raises(embedded.EmbeddedUnavailable, match="Another server runs on the data directory"):
            embedded.start(tmp_path / "pg")

        assert 1 == _run(postgres.dsn, "SELECT 1")


def test_a_directory_that_cannot_be_made_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(embedded.EmbeddedUnavailable, match="--data-dir"):
        embedded.start(tmp_path / "file" / "pg")


def test_postgresql_does_not_outlive_a_killed_watcher(tmp_path: Path) -> None:
    with embedded.start(tmp_path / "pg"):
        pid = _postmaster(tmp_path / "pg")
        watcher = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(watcher, signal.SIGKILL)

        eventually_sync(lambda: _is_gone(pid), "PostgreSQL is gone", timeout=15)

    with embedded.start(tmp_path / "pg") as postgres:
        assert 1 == _run(postgres.dsn, "SELECT 1")


def test_a_start_right_after_a_killed_owner_waits_for_what_it_left(tmp_path: Path) -> None:
    for _ in range(3):
        owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path / "pg")], stdout=subprocess.PIPE, text=True)
        assert owner.stdout is not None
        assert owner.stdout.readline().startswith("postgresql://")
        owner.kill()
        owner.wait()
        owner.stdout.close()

    with embedded.start(tmp_path / "pg") as postgres:
        assert 1 == _run(postgres.dsn, "SELECT 1")


@contextlib.contextmanager
def _during_the_first_initdb(folder: Path) -> Iterator[list[psutil.Process]]:
    """Start an owner and yield its processes, from itself to its `initdb`, when that has begun; all are killed."""
    programs = folder / "programs"
    programs.mkdir()
    (programs / "postgres").symlink_to(embedded.find_binaries().folder / "postgres")
    (programs / "initdb").write_text(INITDB)
    (programs / "initdb").chmod(0o755)
    os.mkfifo(programs / "pipe")
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder / "pg")], env={**os.environ, "QUORRA_POSTGRES_BIN": str(programs)}
    )
    processes = []
    try:
        eventually_sync(lambda: list((folder / "pg").glob("*/PG_VERSION")), "initdb has begun", timeout=15)
        processes = [psutil.Process(owner.pid), *psutil.Process(owner.pid).children(recursive=True)]
        yield processes
    finally:
        _kill(processes)
        owner.kill()
        owner.wait()


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=15)


def test_a_first_start_that_was_cut_short_is_made_anew_by_the_next(tmp_path: Path) -> None:
    with _during_the_first_initdb(tmp_path) as processes:
        _kill(processes)

    with embedded.start(tmp_path / "pg") as postgres:
        assert 1 == _run(postgres.dsn, "SELECT 1")


def test_an_initdb_that_outlives_its_owner_keeps_others_out(tmp_path: Path) -> None:
    with _during_the_first_initdb(tmp_path) as (*owner_and_watcher, initdb):
        _kill(owner_and_watcher)

        with (tmp_path / "pg" / "data.lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert initdb.is_running()


def test_a_first_start_on_a_full_disk_says_so_and_the_next_one_works(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OWNER_WITHOUT_ROOM, str(tmp_path / "pg")], capture_output=True, text=True, check=True
    )

    assert "cannot be written" in done.stdout
    assert "--data-dir" in done.stdout
    with embedded.start(tmp_path / "pg") as postgres:
        assert 1 == _run(postgres.dsn, "SELECT 1")


def test_relative_paths_are_meant_from_where_the_server_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "programs").symlink_to(embedded.find_binaries().folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUORRA_POSTGRES_BIN", "programs")
    monkeypatch.setenv("QUORRA_STATE_DIR", "state")

    with embedded.start(Path("pg")) as given:
        assert 1 == _run(given.dsn, "SELECT 1")
    with embedded.start() as default:
        assert 1 == _run(default.dsn, "SELECT 1")

    assert (tmp_path / "pg", tmp_path / "state" / "postgres") == (given.data_dir.parent, default.data_dir.parent)


def test_a_directory_with_files_of_others_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "one.png").touch()

    with pytest.raises(embedded.EmbeddedUnavailable, match=r"files that are not Quorra's.+--data-dir"):
        embedded.start(folder)

    assert ["one.png"] == [file.name for file in folder.iterdir()]
    assert 0o755 == folder.stat().st_mode & 0o777


def test_an_empty_volume_is_taken(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()

    with embedded.start(tmp_path) as postgres:
        assert 1 == _run(postgres.dsn, "SELECT 1")


def _programs(folder: Path, version: str) -> Path:
    """Make programs that say a version, and can do nothing else."""
    folder.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        (folder / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
        (folder / name).chmod(0o755)
    return folder


def _made_by(home: Path, version: str) -> Path:
    """Make a data directory in which a version of PostgreSQL has left data."""
    (home / version).mkdir(parents=True)
    (home / version / "PG_VERSION").write_text(f"{version}\n")
    (home / "password").write_text("secret")
    return home


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose only programs are those that the test puts into this folder, one folder a version."""
    monkeypatch.delenv("QUORRA_POSTGRES_BIN", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(embedded, "WHEEL_PACKAGE", "no_such_package")
    monkeypatch.setattr(embedded, "SYSTEM_FOLDER", tmp_path / "system")
    return tmp_path / "system"


def test_data_of_another_version_is_refused_with_its_folder_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a data directory of its own for each version, an upgrade of the wheel looked as if all jobs were gone."""
    home = _made_by(tmp_path / "pg", "15")
    programs = _programs(tmp_path / "programs", "18.1")
    monkeypatch.setenv("QUORRA_POSTGRES_BIN", str(programs))

    with pytest.raises(embedded.EmbeddedUnavailable) as refused:
        embedded.start(home)

    for part in (f"{home}/15", "PostgreSQL 15", f"PostgreSQL 18 in {programs}", "QUORRA_POSTGRES_BIN", "--data-dir"):
        assert part in str(refused.value)
    assert {"15", "password"} == {file.name for file in home.iterdir()}


def test_of_several_versions_the_one_that_made_the_data_is_run(tmp_path: Path, system: Path) -> None:
    _programs(system / "18" / "bin", "18.1")
    fitting = _programs(system / "15" / "bin", "15.9")

    assert embedded.Binaries(fitting, "15") == embedded.find_binaries(_made_by(tmp_path / "pg", "15"))


def test_data_that_was_not_made_whole_asks_for_no_version(tmp_path: Path, system: Path) -> None:
    programs = _programs(system / "18" / "bin", "18.1")
    home = _made_by(tmp_path / "pg", "15")
    (home / "15").rename(home / "15.new")

    assert embedded.Binaries(programs, "18") == embedded.find_binaries(home)


def test_the_newest_version_of_the_machine_is_run(system: Path) -> None:
    _programs(system / "9.6" / "bin", "9.6.24")
    newest = _programs(system / "16" / "bin", "16.4 (Debian 16.4-1)")

    assert embedded.Binaries(newest, "16") == embedded.find_binaries()


def test_a_named_folder_without_programs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUORRA_POSTGRES_BIN", str(tmp_path / "bni"))

    with pytest.raises(embedded.EmbeddedUnavailable, match=r"QUORRA_POSTGRES_BIN is .+/bni, which has no `postgres`"):
        embedded.start(tmp_path / "pg")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#!/no/such/interpreter\n", "No such file"),
        ("#!/bin/sh\necho libicu is missing >&2; exit 127\n", "libicu is missing"),
        ("#!/bin/sh\necho hello\n", "hello"),
    ],
    ids=["it is not run", "it ends badly", "it is something else"],
)
def test_a_named_program_that_does_not_start_is_refused_with_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    programs = _programs(tmp_path / "programs", "18.1")
    (programs / "postgres").write_text(text)
    monkeypatch.setenv("QUORRA_POSTGRES_BIN", str(programs))

    with pytest.raises(embedded.EmbeddedUnavailable, match=rf"{programs}/postgres does not start: .*{reason}"):
        embedded.start(tmp_path / "pg")


def test_a_program_that_does_not_start_is_passed_over_for_one_that_does(system: Path) -> None:
    (_programs(system / "18" / "bin", "18.1") / "postgres").write_text("#!/no/such/interpreter\n")
    older = _programs(system / "17" / "bin", "17.2")

    assert embedded.Binaries(older, "17") == embedded.find_binaries()


def test_where_nothing_starts_the_reason_is_told(system: Path) -> None:
    (_programs(system / "18" / "bin", "18.1") / "postgres").write_text("#!/no/such/interpreter\n")

    with pytest.raises(embedded.EmbeddedUnavailable, match=r"no PostgreSQL to run\. .+ does not start: .+pip install"):
        embedded.find_binaries()
