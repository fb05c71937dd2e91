"""Containers without an engine: a PID namespace in which a command is process 1, with the rights of one."""

import contextlib
import functools
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping

import psutil

from tests.support.processes import Running, start_process

UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
UNSHARE_CALL = {"x86_64": 272, "aarch64": 97}

# What container engines do to root by default: no unshare(2), and only these capabilities (chown, dac_override, fowner,
# fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap).
CONFINE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Filter(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_uint16), ("filter", ctypes.POINTER(Filter))]
LOAD, EQUAL, RETURN, EPERM, ALLOW = 0x20, 0x15, 0x06, 0x00050001, 0x7FFF0000
filters = (Filter * 4)((LOAD, 0, 0, 0), (EQUAL, 0, 1, int(sys.argv[1])), (RETURN, 0, 0, EPERM), (RETURN, 0, 0, ALLOW))
assert libc.prctl(22, 2, ctypes.byref(Program(4, filters))) == 0
for capability in range(41):
    if capability not in (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31):
        libc.prctl(24, capability, 0, 0, 0)
os.execv(sys.argv[2], sys.argv[2:])
"""


@functools.cache
def why_no_containers(*, confined: bool) -> str | None:
    """Say why this machine cannot run one, for a skip; None if it can."""
    if confined and os.geteuid() != 0:
        return "only root can be taken its capabilities away and become nobody"
    if confined and platform.machine() not in UNSHARE_CALL:
        return f"the number of unshare(2) on {platform.machine()} is not known here"
    try:
        subprocess.run([*_unshare(), "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unshare cannot make a PID namespace here: {error}"
    return None


def _unshare() -> tuple[str, ...]:
    return UNSHARE if os.geteuid() == 0 else (*UNSHARE, "--user", "--map-root-user")


class Container:
    """A command as process 1, seen from outside."""

    def __init__(self, running: Running) -> None:
        self.running = running

    @property
    def process_1(self) -> psutil.Process:
        (found,) = psutil.Process(self.running.process.pid).children()
        return found

    def processes(self) -> list[psutil.Process]:
        """Return everything that runs in it, process 1 first."""
        return [self.process_1, *self.process_1.children(recursive=True)]

    def the(self, program: str, *words: str) -> psutil.Process:
        """Return the process below process 1 whose command line begins with a program (or script) and has the words."""
        for process in self.processes()[1:]:
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                if any(part.endswith(program) for part in line[:3]) and all(word in line for word in words):
                    return process
        raise AssertionError(f"no process runs {program} {' '.join(words)}")

    def zombies(self) -> list[int]:
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() == psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
        return found

    def ended(self, timeout: float = 30) -> int:
        """Wait for its end and return its exit code."""
        return self.running.process.wait(timeout)


@contextlib.contextmanager
def start_container(command: list[str], environment: Mapping[str, str], *, confined: bool) -> Iterator[Container]:
    """Run a command (with the path of its program) as process 1; everything in it is killed at the end."""
    confine = [sys.executable, "-c", CONFINE, str(UNSHARE_CALL[platform.machine()])] if confined else []
    with start_process([*_unshare(), *confine, *command], environment) as running:
        yield Container(running)
