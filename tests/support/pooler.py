"""PgBouncer in transaction mode before the tests' databases: set QUORRA_TEST_PGBOUNCER to its command to use it."""

import atexit
import os
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from tests.support.services import free_port, wait_until_listening

COMMAND_VARIABLE = "QUORRA_TEST_PGBOUNCER"
# What the documentation tells for servers behind one.
SERVER_SETTINGS = {"QUORRA_PREPARED_STATEMENTS": "off", "QUORRA_NOTIFY": "off"}


def is_pooled() -> bool:
    """Say whether the product's connections go through PgBouncer."""
    return bool(os.environ.get(COMMAND_VARIABLE))


def through_pooler(url: str) -> str:
    """Return the address of a database through PgBouncer, or as it is if there is none."""
    parts = urlsplit(url)
    if not is_pooled() or "," in parts.netloc:
        return url
    port = _pooler(parts.hostname or "", parts.port or 5432, parts.username or "", parts.password or "")
    return urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}"))


@cache
def _pooler(host: str, port: int, user: str, password: str) -> int:
    """Start a PgBouncer before one PostgreSQL; it ends with this process."""
    folder, own_port = Path(tempfile.mkdtemp(prefix="quorra-pgbouncer-")), free_port()
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        f"[databases]\n* = host={host} port={port} user={user} password={password}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {own_port}\nunix_socket_dir =\npool_mode = transaction\n"
        "auth_type = any\nmax_client_conn = 500\ndefault_pool_size = 20\nserver_login_retry = 1\n"
        "ignore_startup_parameters = extra_float_digits\n"
    )
    command = [*shlex.split(os.environ[COMMAND_VARIABLE]), str(configuration)]
    if os.geteuid() == 0:
        folder.chmod(0o755)
        configuration.chmod(0o644)
        command[-1:] = ["-u", "nobody", str(configuration)]
    supervisor = _Supervisor(command, folder / "log")
    atexit.register(supervisor.stop)
    wait_until_listening(own_port)
    return own_port


class _Supervisor:
    """Keeps a process running, as an installation does: a cancel request may end PgBouncer 1.18.

    See https://github.com/pgbouncer/pgbouncer/issues/801, which 1.20 has mended.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        """Start the process."""
        self._command, self._log = command, log
        self._is_over = False
        self._process = self._start()
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        """End the process for good."""
        self._is_over = True
        self._process.kill()

    def _watch(self) -> None:
        while not self._is_over:
            self._process.wait()
            if not self._is_over:
                self._process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            return subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=log)
