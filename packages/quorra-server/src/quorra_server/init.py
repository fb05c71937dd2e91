"""Process 1 of a container that has no init: passes signals on to the program, and reaps whoever nobody else waits for.

The kernel gives process 1 every orphan of its namespace, and takes the namespace's processes with it when it ends. A
server that is process 1 itself would keep dead processes for ever, and cut its own PostgreSQL off when it is killed.
"""

import os
import signal
import time

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
# How long what a killed program left behind may take to stop in an orderly way, such as its PostgreSQL.
LEFT_BEHIND_SECONDS_MAX = 20.0
LOOK_SECONDS = 0.05
EXIT_SIGNALLED = 128


def beneath_init() -> int | None:
    """Make sure that somebody is process 1 who does its work.

    As process 1 this process becomes the init, and what follows runs in a child. Call it before anything else, while
    the process has one thread and nothing open.

    Returns:
        None where the program is to go on; in the init the exit code of the program, once everything has ended.
    """
    if os.getpid() != 1:
        return None
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    program = os.fork()
    if program:
        return _look_after(program)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    return None


def _look_after(program: int) -> int:
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(program, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == program:
            break
    # Nobody is left to pass signals on to; ending at once is not what they ask of an init.
    for number in PASSED_ON:
        signal.signal(number, signal.SIG_IGN)
    _reap_what_is_left()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else EXIT_SIGNALLED - code


def _reap_what_is_left() -> None:
    deadline = time.monotonic() + LEFT_BEHIND_SECONDS_MAX
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            time.sleep(LOOK_SECONDS)
