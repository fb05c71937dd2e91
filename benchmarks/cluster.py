"""The PostgreSQL of a whole session: durable, an embedded one or the one that `QUORRA_BENCH_DATABASE_URL` names."""

import contextlib
import os
import tempfile
from pathlib import Path
from types import TracebackType

import psutil
from quorra_server import embedded

from benchmarks import database

# Settings that a production PostgreSQL of this size has; fsync and synchronous_commit stay on.
POSTGRES_SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "max_connections": "300"}


class Cluster(contextlib.AbstractContextManager["Cluster"]):
    """A running PostgreSQL.

    Attributes:
        admin_dsn: Of a database that the benchmarks do not drop.
        postmaster: Its first process; None when it runs on another machine.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.admin_dsn = ""
        self.postmaster: psutil.Process | None = None

    def __enter__(self) -> "Cluster":
        self.admin_dsn = os.environ.get("QUORRA_BENCH_DATABASE_URL") or self._start_embedded()
        self.postmaster = database.find_postmaster(self.admin_dsn)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start_embedded(self) -> str:
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        postgres = embedded.start(Path(folder) / "postgres", settings=POSTGRES_SETTINGS)
        return self._stack.enter_context(postgres).dsn
