"""Two PostgreSQLs on two ports: a primary and a streaming standby, which change roles."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import psutil
from quorra_server import embedded
from quorra_server.embedded import EmbeddedPostgres

from tests.support.services import free_port

SETTINGS = {
    "wal_level": "replica",
    "max_connections": "120",
    "shared_buffers": "'128MB'",
    "wal_keep_size": "'512MB'",
    "wal_sender_timeout": "'10s'",
    "log_min_messages": "warning",
    # When, and which SQLSTATE.
    "log_line_prefix": "'%m %e '",
}
WAIT_SECONDS_MAX = 30.0
STANDBY_NAME = "quorra_standby"


def _basebackup() -> Path:
    """Return a program that copies a running cluster: of the same version or a newer one."""
    folders = (embedded.find_binaries().folder, *embedded._candidates())
    return next(program for folder in folders if (program := folder / "pg_basebackup").exists())


class Node:
    """One of the two: a folder and a port."""

    def __init__(self, home: Path) -> None:
        """Take its folder; nothing is started yet."""
        self.home = home
        self.port = free_port()
        self.running: EmbeddedPostgres | None = None

    @property
    def dsn(self) -> str:
        """Where it is."""
        assert self.running is not None
        return self.running.dsn

    @property
    def cluster(self) -> Path:
        """Its data."""
        return self.home / embedded.find_binaries().version

    def start(self) -> None:
        """Start it, in the role that its data says."""
        self.running = embedded.start(self.home, port=self.port, settings=SETTINGS)

    def kill(self) -> None:
        """SIGKILL the postmaster; its sessions end by themselves, and nobody starts it again."""
        assert self.running is not None
        watcher = self.running._watcher
        watcher.send_signal(signal.SIGSTOP)
        with contextlib.suppress(OSError, ValueError, IndexError):
            os.kill(self._postmaster(), signal.SIGKILL)
        watcher.kill()
        watcher.wait()
        self.running.stop()

    def freeze(self) -> None:
        """SIGSTOP all of its processes: connections stay open, and nobody answers."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal_all(signal.SIGCONT)

    def stop(self) -> None:
        """Stop it in an orderly way."""
        if self.running is not None:
            self.running.stop()

    def copy_from(self, primary: "Node") -> None:
        """Become a standby of another one, from nothing, and start."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        shutil.copy(primary.home / "password", self.home / "password")
        program = _basebackup()
        source = f"{primary.dsn}?application_name={STANDBY_NAME}"
        command = [str(program), "-D", str(self.cluster), "-d", source, "-R", "-X", "stream", "--checkpoint=fast"]
        copied = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
        assert copied.returncode == 0, copied.stderr
        with (self.cluster / "postgresql.auto.conf").open("a") as settings:
            settings.write("synchronous_standby_names = ''\n")
        self.start()

    def _postmaster(self) -> int:
        return int((self.cluster / "postmaster.pid").read_text().split()[0])

    def _signal_all(self, number: int) -> None:
        process = psutil.Process(self._postmaster())
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(number)


class Pair:
    """A primary and its standby."""

    def __init__(self, folder: Path, *, is_synchronous: bool) -> None:
        """Take where their data goes, and whether a commit waits for the standby."""
        self.primary, self.standby = Node(folder / "a"), Node(folder / "b")
        self._ports = (self.primary.port, self.standby.port)
        self._is_synchronous = is_synchronous

    @property
    def url(self) -> str:
        """The address for clients: both hosts, in an order that never changes."""
        parts = urlsplit(self.primary.dsn)
        hosts = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        return f"postgresql://{parts.username}:{parts.password}@{hosts}/postgres?target_session_attrs=read-write"

    def start(self) -> None:
        """Start both and wait until the standby follows."""
        self.primary.start()
        self.rebuild()

    def rebuild(self) -> None:
        """Make the standby anew from the primary, and wait until it follows."""
        self.standby.copy_from(self.primary)
        asyncio.run(self._follow())

    async def _follow(self) -> None:
        connection = await asyncpg.connect(self.primary.dsn)
        try:
            names = f"'{STANDBY_NAME}'" if self._is_synchronous else "''"
            await connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = {names}")
            await connection.execute("SELECT pg_reload_conf()")
            wanted = ("sync",) if self._is_synchronous else ("async", "sync")
            deadline = time.monotonic() + WAIT_SECONDS_MAX
            while True:
                row = await connection.fetchrow("SELECT state, sync_state FROM pg_stat_replication")
                if row is not None and row["state"] == "streaming" and row["sync_state"] in wanted:
                    return
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the standby does not follow: {row}; see {self.standby.home}")
                await asyncio.sleep(0.05)
        finally:
            await connection.close()

    async def cut_off(self) -> None:
        """Let the standby fall behind for good: it looks for its primary in the wrong place."""
        connection = await asyncpg.connect(self.standby.dsn)
        try:
            await connection.execute("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'")
            await connection.execute("SELECT pg_reload_conf()")
            deadline = time.monotonic() + WAIT_SECONDS_MAX
            while await connection.fetchval("SELECT EXISTS (SELECT FROM pg_stat_wal_receiver)"):
                if time.monotonic() > deadline:
                    raise TimeoutError("the standby still follows")
                await asyncio.sleep(0.02)
        finally:
            await connection.close()

    async def promote(self) -> None:
        """Make the standby the primary; whatever the primary is now is called the standby from then on."""
        connection = await asyncpg.connect(self.standby.dsn)
        try:
            promoted = await connection.fetchval("SELECT pg_promote(true, 30)")
            assert promoted
        finally:
            await connection.close()
        self.primary, self.standby = self.standby, self.primary

    def close(self) -> None:
        """Stop both."""
        for node in (self.primary, self.standby):
            with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
                node.thaw()
            node.stop()


@contextlib.contextmanager
def replicated_postgres(folder: Path, *, is_synchronous: bool) -> Iterator[Pair]:
    """Run a primary and a standby."""
    pair = Pair(folder, is_synchronous=is_synchronous)
    try:
        pair.start()
        yield pair
    finally:
        pair.close()
