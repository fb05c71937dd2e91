"""The program between an embedded PostgreSQL and its owner; run by path, so it imports nothing of the server.

PostgreSQL refuses to run as root. Under a root owner this program enters a user namespace in which it is somebody else,
but still owns the same files. Where namespaces are forbidden, as in most containers, it becomes `nobody`, and the data
with it.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

RUN, WATCH = "run", "watch"
ROOT = 0
NOBODY = 65_534
NAMESPACE_USER = 1_000
# From <sched.h>, <linux/prctl.h>, <linux/securebits.h> and <linux/capability.h>; Python offers the first from 3.12 on.
CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_CHILD_SUBREAPER, PR_CAP_AMBIENT = 1, 8, 36, 47
PR_CAP_AMBIENT_RAISE = 2
PR_SET_SECUREBITS = 28
SECBIT_KEEP_CAPS, SECBIT_NO_SETUID_FIXUP = 1 << 4, 1 << 2
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE = 1

LOOK_SECONDS = 0.2
# A PostgreSQL that ends by itself is started again, at most so often in a row.
STARTS_MAX = 5
WELL_SECONDS = 60.0
PAUSE_SECONDS = 0.5

_libc = ctypes.CDLL(None, use_errno=True)


def main(mode: str, home: Path, lock: int, command: Sequence[str]) -> int:
    """Run a program of PostgreSQL as somebody that it agrees to run as, and return its exit code.

    Args:
        mode: `run` waits for the program; `watch` keeps it running until standard input closes.
        home: Holds everything that the program must own.
        lock: A file descriptor that the program keeps open for as long as any of its processes lives.
    """
    if os.geteuid() == ROOT:
        _stop_being_root(home)
    if mode == RUN:
        return subprocess.run(command, check=False, pass_fds=(lock,)).returncode
    return _watch(command, lock)


def _watch(command: Sequence[str], lock: int) -> int:
    """Keep PostgreSQL running until the owner's end of standard input closes; then stop it."""
    # The sessions of a PostgreSQL that was killed become our children, and not those of whoever is process 1.
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, _let_go_of_owner)
    starts_left = STARTS_MAX
    while True:
        started_at = time.monotonic()
        postgres = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(lock,), preexec_fn=_die_with_parent)
        while postgres.poll() is None and _owner_lives():
            pass
        if postgres.poll() is None:
            # Fast shutdown: sessions are ended, and data is written.
            postgres.send_signal(signal.SIGINT)
            return postgres.wait()
        _reap_all()
        starts_left = STARTS_MAX if time.monotonic() - started_at > WELL_SECONDS else starts_left - 1
        if not starts_left or not _owner_lives():
            return postgres.returncode
        print(f"PostgreSQL ended with {postgres.returncode}; starting it again", file=sys.stderr, flush=True)  # noqa: T201
        time.sleep(PAUSE_SECONDS)


def _let_go_of_owner(*_: object) -> None:
    with contextlib.suppress(OSError):
        os.close(0)


def _die_with_parent() -> None:
    # However this watcher dies, PostgreSQL shuts down.
    _prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def _prctl(option: int, *values: int) -> None:
    # Elsewhere than on Linux a killed watcher leaves its PostgreSQL behind; everything else holds.
    if sys.platform == "linux":
        _libc.prctl(option, *values, *[0] * (4 - len(values)))


def _owner_lives() -> bool:
    try:
        readable, _, _ = select.select([0], [], [], LOOK_SECONDS)
        return not readable or bool(os.read(0, 1))
    except OSError:
        # A SIGTERM has closed it.
        return False


def _reap_all() -> None:
    """Wait for the sessions of a PostgreSQL that is gone: they end when they notice, and hold its shared memory."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def _stop_being_root(home: Path) -> None:
    """Become somebody that PostgreSQL agrees to run as, and see that they own the data."""
    if _namespaces_are_allowed():
        _own(home, ROOT)
        _enter_namespace()
    else:
        _own(home, NOBODY)
        _become_nobody()


def _namespaces_are_allowed() -> bool:
    # Tried in a child: a namespace that was entered but cannot be mapped cannot be left.
    child = os.fork()
    if not child:
        try:
            _enter_namespace()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def _enter_namespace() -> None:
    if _libc.unshare(CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "user namespaces are forbidden")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NAMESPACE_USER} {ROOT} 1")
    Path("/proc/self/gid_map").write_text(f"{NAMESPACE_USER} {ROOT} 1")


def _own(home: Path, user: int) -> None:
    for path in (home, *home.rglob("*")):
        if path.lstat().st_uid != user:
            os.chown(path, user, user, follow_symlinks=False)


def _become_nobody() -> None:
    """Give up everything but the way to the files, which may lie below directories of root's, such as its home."""
    _prctl(PR_SET_KEEPCAPS, 1)
    # Else access(2), by which PostgreSQL looks for its programs, would not count what nobody was left.
    _prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    bit = 1 << CAP_DAC_OVERRIDE
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    # Effective, permitted and inheritable, low words first.
    only = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    # Where root has not even that, the files must be within everybody's reach; PostgreSQL's own error says so if not.
    if _libc.capset(header, only) == 0:
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
