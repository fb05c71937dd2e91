"""A real PostgreSQL whose clock is stepped while it runs: libfaketime tells it the time."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from tests.support.faketime import under_faketime
from tests.support.services import FAST_SETTINGS, own_postgres


@dataclass(frozen=True, slots=True)
class SteppedPostgres:
    """A running PostgreSQL, and the file that says by how much its clock is wrong."""

    dsn: str
    clock: Path

    def step(self, seconds: int) -> None:
        """Put its clock so many seconds before or behind the real time, for all sessions at once."""
        # Renamed into its place: a session that read half of it would see another time.
        new = self.clock.with_name("new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self.clock)


@contextlib.contextmanager
def stepped_postgres(library: str, folder: Path) -> Iterator[SteppedPostgres]:
    """Run an embedded PostgreSQL under libfaketime; its clock is right at first."""
    environment = under_faketime(library, FAKETIME_TIMESTAMP_FILE=str(folder / "clock"), FAKETIME_NO_CACHE="1")
    (folder / "clock").write_text("+0\n")
    with contextlib.ExitStack() as stack:
        # PostgreSQL inherits the environment that it is started in; nobody else is started meanwhile.
        with mock.patch.dict(os.environ, environment):
            postgres = stack.enter_context(own_postgres(settings=FAST_SETTINGS))
        yield SteppedPostgres(postgres.dsn, folder / "clock")
