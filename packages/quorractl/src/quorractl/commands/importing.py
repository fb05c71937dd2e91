"""`import`: any number of jobs from NDJSON, in bounded memory, safe to repeat after a cut or with lines mended."""

import hashlib
import itertools
import json
import os
import secrets
import stat
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from quorractl import output
from quorractl.client import Json
from quorractl.commands.common import Session, output_option
from quorractl.errors import CommandError, Refused

LINES_PER_REQUEST = 1_000
# Ends a request too, whatever the lines are; the server records as much at a time.
BYTES_PER_REQUEST = 4 * 1024 * 1024
# The largest payload that a server can be made to take (QUORRA_PAYLOAD_BYTES_MAX), and the fields around it.
LINE_BYTES_MAX = 64 * 1024 * 1024 + 64 * 1024
# Told again when an import goes on; all of them are told when they come.
REFUSALS_KEPT_MAX = 20
# The status of a refusal that no line is to blame for: the database is away, or did not say what became of them.
STATUS_UNAVAILABLE = 503
# Of what was imported, so much at each end tells whether it is the same file still.
ENDS_BYTES = 64 * 1024


@dataclass(slots=True)
class _Resume:
    """Where an import stands, in a file beside the input, so that it can go on after a cut.

    When lines were refused it stays behind, at line 0: repeated with these lines mended, the others are known again.

    Attributes:
        path: None where nothing can be kept: the input can be read only once, or its folder takes no file.
        server: Where the lines went.
        seed: Makes the ids of all lines: a chunk that was sent but not answered is sent again with the same ids, which
            the server recognises.
        ends: A hash of both ends of the first `bytes_done` bytes.
        recorded_line: The last line that was ever recorded; 0 if none was. An id is known again only in its line.
        recorded_hash: A hash of that line.
        refusals: The first lines that were refused, each with the reason.
    """

    path: Path | None
    server: str
    seed: str
    began_ms: int
    ends: str = ""
    lines_done: int = 0
    bytes_done: int = 0
    submitted: int = 0
    existing: int = 0
    failed: int = 0
    recorded_line: int = 0
    recorded_hash: str = ""
    refusals: list[tuple[int, str]] = field(default_factory=list)

    @classmethod
    def beside(cls, file: str, stream: BinaryIO, server: str) -> "_Resume":
        """Return where the import of a file to a server stands.

        Raises:
            CommandError: What is kept cannot be read, or is that of another file or server.
        """
        path = None if _size(file, stream) is None else Path(f"{file}.quorra-import")
        if path is None or not path.exists():
            return cls(path, server, secrets.token_hex(16), time.time_ns() // 1_000_000)
        try:
            kept = cls(path, **json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise CommandError(f"{path} cannot be read: {error}. Remove it to import all of {file} anew.") from error
        # Before the first lines are done nothing would be left out, wherever they go.
        if kept.lines_done:
            kept._check(file, stream, server)
        if kept.is_repeated:
            kept._check_recorded(file, stream)
        kept.server = server
        return kept

    def _check(self, file: str, stream: BinaryIO, server: str) -> None:
        if self.bytes_done > os.fstat(stream.fileno()).st_size:
            raise CommandError(
                f"{file} is shorter than what was imported of it before. Remove {self.path} to begin anew."
            )
        if self.ends != _ends(stream, self.bytes_done):
            raise CommandError(
                f"The first {self.lines_done} lines of {file} are not those that were imported before. Put the file "
                f"back as it was to go on, or remove {self.path} to import all of this one."
            )
        if self.server != server:
            raise CommandError(
                f"The first {self.lines_done} lines of {file} went to {self.server}, not to {server}. Go on there with "
                f"--server, or remove {self.path} to import all of them to {server}."
            )

    @property
    def is_repeated(self) -> bool:
        """Say whether lines are still to come that were recorded when the file was imported before."""
        return self.recorded_line > self.lines_done

    def _check_recorded(self, file: str, stream: BinaryIO) -> None:
        line = next(itertools.islice(_lines(stream, 0), self.recorded_line - 1, None), b"")
        stream.seek(0)
        if self.recorded_hash != _hash(line):
            raise CommandError(
                f"Line {self.recorded_line} of {file} is not the one that was imported before. Put all lines back in "
                "their places to submit only those that were refused (what you leave out may be a blank line), or "
                f"remove {self.path} to import all of this file anew."
            )

    def save(self, stream: BinaryIO) -> None:
        """Keep how far the import is; where that fails, say so and go on without."""
        if self.path is None:
            return
        new = self.path.with_name(f"{self.path.name}.new")
        try:
            self.ends = _ends(stream, self.bytes_done)
            new.write_text(json.dumps({name: value for name, value in asdict(self).items() if name != "path"}))
            new.replace(self.path)
        except OSError as error:
            output.say(f"How far this import is cannot be kept ({error}): after a cut it would begin anew.")
            self.path = None

    def finish(self, stream: BinaryIO) -> None:
        """Forget the import, which is done; but where lines were refused, keep what the others are known by."""
        if self.path is None:
            return
        if not self.failed:
            self.path.unlink(missing_ok=True)
            return
        kept = _Resume(self.path, self.server, self.seed, self.began_ms)
        kept.recorded_line, kept.recorded_hash = self.recorded_line, self.recorded_hash
        kept.save(stream)

    def say_how_to_go_on(self) -> None:
        """Say what to do about an import that stopped."""
        if self.path is not None:
            output.say(f"{self.lines_done} lines are done; repeat the command to go on behind them.")
            return
        output.say(
            f"{self.lines_done} lines are done, which is kept nowhere: leave them out when you repeat the command. "
            f"Up to {LINES_PER_REQUEST:,} lines behind them may be recorded too."
        )

    def with_id(self, number: int, line: bytes) -> bytes:
        """Return a line with an id, unless it has its own or no server can read it (ours will say so)."""
        try:
            # Numbers stay text, since Python reads none of over 4,300 digits.
            fields = json.loads(line, parse_int=str)
        except (ValueError, RecursionError):
            return line
        if not isinstance(fields, dict) or fields.get("id") is not None:
            return line
        # The last field of a name counts: this one stands in for an id that is null.
        return line.rstrip()[:-1] + (b"," if fields else b"") + f'"id":"{self._id(number)}"}}\n'.encode()

    def _id(self, number: int) -> uuid.UUID:
        """Return the id of a line: a UUID of version 7 (RFC 9562) whose random part follows from the seed."""
        digest = hashlib.sha256(f"{self.seed}:{number}".encode()).digest()
        bits = self.began_ms << 80 | 0x7 << 76 | 0x2 << 62
        bits |= int.from_bytes(digest[:2], "big") >> 4 << 64 | int.from_bytes(digest[2:10], "big") >> 2
        return uuid.UUID(int=bits)

    def count(self, chunk: list[bytes], answers: list[Json]) -> None:
        """Add what became of a chunk, and tell the reasons for what was refused.

        Raises:
            Refused: Of some lines it is not known; nothing was added, so that the whole chunk is sent again.
        """
        refused = [(self.lines_done + answer["line"], answer["error"]) for answer in answers if "error" in answer]
        for _, problem in refused:
            if problem["status"] == STATUS_UNAVAILABLE:
                raise Refused(STATUS_UNAVAILABLE, problem)
        existing = sum(answer.get("existing", False) for answer in answers)
        self.submitted += len(answers) - len(refused) - existing
        self.existing += existing
        self.failed += len(refused)
        refusals = [(number, str(problem["detail"])) for number, problem in refused]
        _tell(refusals)
        self.refusals += refusals[: REFUSALS_KEPT_MAX - len(self.refusals)]
        recorded = [answer["line"] for answer in answers if "error" not in answer]
        if recorded and self.lines_done + recorded[-1] > self.recorded_line:
            self.recorded_line = self.lines_done + recorded[-1]
            self.recorded_hash = _hash(chunk[recorded[-1] - 1])
        self.lines_done += len(chunk)
        self.bytes_done += sum(len(line) for line in chunk)


@click.command(name="import")
@click.argument("file", metavar="FILE|-")
@output_option
@click.pass_obj
def import_jobs(session: Session, file: str) -> None:
    """Submit the jobs in FILE, one JSON object a line. Repeating after a cut goes on where it stopped."""
    began = time.monotonic()
    with _opened(file) as stream:
        resume = _Resume.beside(file, stream, session.client.server)
        try:
            _import(session, stream, resume, _size(file, stream))
        except BaseException:
            resume.say_how_to_go_on()
            raise
        resume.finish(stream)
    counts = {"submitted": resume.submitted, "existing": resume.existing, "failed": resume.failed}
    output.show_one({**counts, "seconds": round(time.monotonic() - began, 3)}, session.form, name="submitted")
    if resume.failed:
        raise CommandError(f"{resume.failed} lines were refused; {_remedy(file, resume)}")


def _remedy(file: str, resume: _Resume) -> str:
    if resume.path is None:
        return "mend them and import only them: the other lines are recorded, and would be recorded once more."
    return f"mend them in {file}, each in its place, and repeat the command: the other lines are known again."


def _import(session: Session, stream: BinaryIO, resume: _Resume, size: int | None) -> None:
    if resume.lines_done:
        output.say(f"Going on behind line {resume.lines_done}.")
        _tell(resume.refusals)
        stream.seek(resume.bytes_done)
    if resume.is_repeated:
        output.say(f"Lines that were recorded before are not doubled; remove {resume.path} to import all anew.")
    # Before anything is sent: what is recorded and not answered is known again only by ids of the same seed.
    resume.save(stream)
    with _progress(size, resume.bytes_done) as (progress, task):
        for chunk in _chunks(stream, resume.lines_done):
            lines = [resume.with_id(number, line) for number, line in enumerate(chunk, resume.lines_done + 1)]
            resume.count(chunk, session.client.import_jobs(lines))
            resume.save(stream)
            progress.advance(task, sum(len(line) for line in chunk))


def _opened(file: str) -> BinaryIO:
    if file == "-":
        return sys.stdin.buffer
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error}.") from error


def _size(file: str, stream: BinaryIO) -> int | None:
    """Return how many bytes a file has; None for what can be read only once, such as a pipe."""
    if file == "-":
        return None
    found = os.fstat(stream.fileno())
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _ends(stream: BinaryIO, size: int) -> str:
    """Return a hash of both ends of the first `size` bytes; does not move where the stream is read."""
    length = min(size, ENDS_BYTES)
    both = os.pread(stream.fileno(), length, 0) + os.pread(stream.fileno(), length, size - length)
    return hashlib.sha256(both).hexdigest()


def _hash(line: bytes) -> str:
    """Return a hash of a line, with or without its end."""
    return hashlib.sha256(line.strip()).hexdigest()


def _tell(refusals: list[tuple[int, str]]) -> None:
    for number, reason in refusals:
        output.say(f"line {number}: {reason}")


def _chunks(stream: BinaryIO, lines_done: int) -> Iterator[list[bytes]]:
    """Yield the lines of each request."""
    chunk: list[bytes] = []
    chunk_bytes = 0
    for line in _lines(stream, lines_done):
        chunk.append(line)
        chunk_bytes += len(line)
        if len(chunk) == LINES_PER_REQUEST or chunk_bytes >= BYTES_PER_REQUEST:
            yield chunk
            chunk, chunk_bytes = [], 0
    if chunk:
        yield chunk


def _lines(stream: BinaryIO, lines_done: int) -> Iterator[bytes]:
    """Yield the lines behind those that are done.

    Raises:
        CommandError: One is longer than any server takes.
    """
    for number in itertools.count(lines_done + 1):
        line = stream.readline(LINE_BYTES_MAX + 1)
        if not line:
            return
        if len(line) > LINE_BYTES_MAX:
            raise CommandError(
                f"Line {number} has more than {LINE_BYTES_MAX:,} bytes, which no server takes. Give NDJSON: each job "
                "as a JSON object on a line of its own."
            )
        yield line


class _progress:  # noqa: N801 - reads as a function where it is used
    """A progress bar on standard error, with the size of the file as its end where it has one."""

    def __init__(self, size: int | None, done: int) -> None:
        self._total = size
        self._done = done
        console = Console(stderr=True, color_system=None) if os.environ.get("NO_COLOR") else Console(stderr=True)
        self._progress = Progress(
            TextColumn("importing"),
            BarColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            MofNCompleteColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> tuple[Progress, TaskID]:
        self._progress.start()
        return self._progress, self._progress.add_task("import", total=self._total, completed=self._done)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
