"""Decodes PostgreSQL's own replication output (plug-in `pgoutput`, protocol 1): every row version in commit order.

Format: "Logical Replication Message Formats" in PostgreSQL's manual.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# Moments count from here, in microseconds.
EPOCH_2000_SECONDS = 946_684_800
RECORD = struct.Struct("!I")

# Text as PostgreSQL prints it; None is NULL. A large value that an update did not touch is missing.
Row = dict[str, str | None]


@dataclass(slots=True)
class Change:
    """One row version: `verb` is insert, update or delete; a deleted row has its key only."""

    verb: str
    table: str
    row: Row


@dataclass(slots=True)
class Transaction:
    """What one transaction changed, in order.

    Attributes:
        lsn: Where its commit lies; grows from one transaction to the next.
        committed_at: Seconds since the epoch.
    """

    lsn: int
    committed_at: float
    changes: list[Change] = field(default_factory=list)


def append_record(file: object, message: bytes) -> None:
    """Write one message as the recorder keeps it: its length, then itself."""
    file.write(RECORD.pack(len(message)) + message)  # type: ignore[attr-defined]


def read_transactions(path: Path) -> Iterator[Transaction]:
    """Yield the transactions of a recording once each, in commit order.

    After a crash PostgreSQL may send again what was recorded already: that is passed by.
    """
    decoder = Decoder()
    seen = 0
    for message in _messages(path):
        transaction = decoder.take(message)
        if transaction is not None and transaction.lsn > seen:
            seen = transaction.lsn
            yield transaction


def _messages(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while header := file.read(RECORD.size):
            (size,) = RECORD.unpack(header)
            yield file.read(size)


class Decoder:
    """Takes one message after the other."""

    def __init__(self) -> None:
        """Know no table yet: each is described before its first row."""
        self._tables: dict[int, tuple[str, list[str]]] = {}
        self._open: Transaction | None = None

    def take(self, message: bytes) -> Transaction | None:
        """Take a message and return the transaction that it ends, if it does."""
        kind = message[:1]
        if kind == b"B":
            lsn, moment = struct.unpack_from("!qq", message, 1)
            self._open = Transaction(lsn, EPOCH_2000_SECONDS + moment / 1_000_000)
        elif kind == b"C":
            done, self._open = self._open, None
            return done
        elif kind == b"R":
            self._take_table(message)
        elif kind in (b"I", b"U", b"D"):
            assert self._open is not None
            self._open.changes.append(self._change(kind, message))
        return None

    def _take_table(self, message: bytes) -> None:
        (number,) = struct.unpack_from("!i", message, 1)
        _, place = _text(message, 5)
        name, place = _text(message, place)
        (count,) = struct.unpack_from("!h", message, place + 1)
        place += 3
        columns = []
        for _ in range(count):
            column, place = _text(message, place + 1)
            columns.append(column)
            place += 8
        self._tables[number] = (name, columns)

    def _change(self, kind: bytes, message: bytes) -> Change:
        (number,) = struct.unpack_from("!i", message, 1)
        table, columns = self._tables[number]
        marker, place = message[5:6], 6
        row, place = _row(message, place, columns)
        if kind == b"U" and marker != b"N":
            # The old row came first; the new one follows its own marker.
            row, place = _row(message, place + 1, columns)
        return Change({b"I": "insert", b"U": "update", b"D": "delete"}[kind], table, row)


def _text(message: bytes, place: int) -> tuple[str, int]:
    end = message.index(0, place)
    return message[place:end].decode(), end + 1


def _row(message: bytes, place: int, columns: list[str]) -> tuple[Row, int]:
    row: Row = {}
    place += 2
    for column in columns:
        kind = message[place]
        place += 1
        if kind == 0x74:  # t: text follows
            size = int.from_bytes(message[place : place + 4], "big")
            place += 4
            row[column] = message[place : place + size].decode()
            place += size
        elif kind == 0x6E:  # n: null
            row[column] = None
    return row, place
