"""`import`: any number of jobs from NDJSON, in bounded memory, safe to repeat after a cut."""

import hashlib
import json
import os
import secrets
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
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
from quorractl.commands.common import Session, output_option
from quorractl.errors import CommandError

LINES_PER_REQUEST = 1_000
FAILURES_SHOWN_MAX = 20


@dataclass(slots=True)
class _Resume:
    """Where an import stands, in a file beside the input, so that it can go on after a cut.

    The seed makes the ids of all lines: a chunk that was sent but not answered is sent again with the same ids, which
    the server recognises.
    """

    path: Path | None
    seed: str
    began_ms: int
    lines_done: int = 0
    bytes_done: int = 0

    @classmethod
    def beside(cls, file: str) -> "_Resume":
        fresh = (secrets.token_hex(16), time.time_ns() // 1_000_000)
        if file == "-":
            return cls(None, *fresh)
        path = Path(f"{file}.quorra-import")
        try:
            return cls(path, **json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return cls(path, *fresh)

    def save(self) -> None:
        if self.path is None:
            return
        content = {
            "seed": self.seed,
            "began_ms": self.began_ms,
            "lines_done": self.lines_done,
            "bytes_done": self.bytes_done,
        }
        new = self.path.with_suffix(".new")
        try:
            new.write_text(json.dumps(content))
            new.replace(self.path)
        except OSError as error:
            output.say(f"How far this import is cannot be kept ({error}): after a cut it would begin anew.")
            self.path = None

    def finish(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def with_id(self, number: int, line: bytes) -> bytes:
        """Return a line with an id, unless it has its own or is not an object (the server will say so)."""
        try:
            fields = json.loads(line)
        except ValueError:
            return line
        if not isinstance(fields, dict) or "id" in fields:
            return line
        job_id = self._id(number)
        comma = b"," if fields else b""
        return line.lstrip().replace(b"{", b'{"id":"' + str(job_id).encode() + b'"' + comma, 1)

    def _id(self, number: int) -> uuid.UUID:
        """Return the id of a line: a UUID of version 7 (RFC 9562) whose random part follows from the seed."""
        digest = hashlib.sha256(f"{self.seed}:{number}".encode()).digest()
        bits = self.began_ms << 80 | 0x7 << 76 | 0x2 << 62
        bits |= int.from_bytes(digest[:2], "big") >> 4 << 64 | int.from_bytes(digest[2:10], "big") >> 2
        return uuid.UUID(int=bits)


@click.command(name="import")
@click.argument("file", metavar="FILE|-")
@output_option
@click.pass_obj
def import_jobs(session: Session, file: str) -> None:
    """Submit the jobs in FILE, one JSON object a line. Repeating after a cut goes on where it stopped."""
    resume = _Resume.beside(file)
    if resume.path is not None and resume.bytes_done > _size(file):
        raise CommandError(
            f"{file} is shorter than what was imported of it before. Remove {resume.path} to begin anew."
        )
    if resume.lines_done:
        output.say(f"Going on behind line {resume.lines_done}.")
    try:
        report, failures = _import(session, file, resume)
    except BaseException:
        if resume.path is not None and resume.lines_done:
            output.say(f"Stopped behind line {resume.lines_done}; repeat the command to go on there.")
        raise
    resume.finish()
    output.show_one(report, session.form, name="submitted")
    for number, reason in failures[:FAILURES_SHOWN_MAX]:
        output.say(f"line {number}: {reason}")
    if failures:
        more = f" (the first {FAILURES_SHOWN_MAX} are shown)" if len(failures) > FAILURES_SHOWN_MAX else ""
        raise CommandError(f"{len(failures)} lines were refused{more}; mend them and import them again.")


def _import(session: Session, file: str, resume: _Resume) -> tuple[dict[str, float], list[tuple[int, str]]]:
    failures: list[tuple[int, str]] = []
    submitted = existing = 0
    began = time.monotonic()
    with _opened(file) as stream, _progress(file, resume) as (progress, task):
        if resume.bytes_done:
            stream.seek(resume.bytes_done)
        for chunk in _chunks(stream):
            first = resume.lines_done + 1
            lines = [resume.with_id(first + offset, line) for offset, line in enumerate(chunk)]
            for answer in session.client.import_jobs(lines):
                if "error" in answer:
                    failures.append((resume.lines_done + answer["line"], str(answer["error"].get("detail"))))
                elif answer.get("existing"):
                    existing += 1
                else:
                    submitted += 1
            resume.lines_done += len(chunk)
            resume.bytes_done += sum(len(line) for line in chunk)
            resume.save()
            progress.advance(task, sum(len(line) for line in chunk))
    seconds = round(time.monotonic() - began, 3)
    report = {"submitted": submitted, "existing": existing, "failed": len(failures), "seconds": seconds}
    return report, failures


def _size(file: str) -> int:
    try:
        return os.path.getsize(file)
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error}.") from error


def _opened(file: str) -> BinaryIO:
    if file == "-":
        return sys.stdin.buffer
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error}.") from error


def _chunks(stream: BinaryIO) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    for line in stream:
        chunk.append(line)
        if len(chunk) == LINES_PER_REQUEST:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class _progress:  # noqa: N801 - reads as a function where it is used
    """A progress bar on standard error, with the size of the file as its end where it has one."""

    def __init__(self, file: str, resume: _Resume) -> None:
        self._total = None if file == "-" else _size(file)
        self._done = resume.bytes_done
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
