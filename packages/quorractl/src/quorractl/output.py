"""Output: data on standard output in the form that was asked for, narration on standard error."""

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

FORMATS = ("table", "json", "jsonl", "yaml", "name")
# What a terminal would act on: control characters except line ends and tabs.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# JSON escapes the rest of them by itself.
_CONTROL_IN_JSON = re.compile(r"[\x7f-\x9f]")
Row = dict[str, Any]


def clean(value: object) -> str:
    """Return a text that is safe to show: control bytes in server data never reach a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", "" if value is None else str(value))


def say(message: str) -> None:
    """Tell the person something; never part of the data."""
    print(clean(message), file=sys.stderr)  # noqa: T201


def finish() -> None:
    """Write out what is held back; a reader that has seen enough, as `head` does, is no error."""
    try:
        print(end="", flush=True)  # noqa: T201
    except BrokenPipeError:
        # The interpreter writes what is left once more as it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_rows(rows: Iterable[Row], columns: Sequence[str], form: str, *, name: str = "id") -> None:
    """Show a list; tables have only some columns, everything else has all fields."""
    if form == "jsonl":
        for row in rows:
            _write(_json(row))
        return
    found = list(rows)
    if form == "name":
        for row in found:
            _write(clean(row.get(name)))
    elif form == "table":
        _table(found, columns)
    else:
        _document(found, form)


def show_one(row: Row, form: str, *, name: str = "id") -> None:
    """Show one thing; as a table its fields one below the other."""
    if form == "table":
        width = max((len(key) for key in row), default=0)
        for key, value in row.items():
            shown = _json(value) if isinstance(value, (dict, list)) else clean(value)
            _write(f"{key:<{width}}  {clean(shown)}".rstrip())
    elif form == "name":
        _write(clean(row.get(name)))
    elif form == "jsonl":
        _write(_json(row))
    else:
        _document(row, form)


def _table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    if not sys.stdout.isatty():
        # Pipes get plain, tab-separated text that cuts and sorts well.
        _write("\t".join(columns).upper())
        for row in rows:
            _write("\t".join(clean(row.get(column)).replace("\t", " ").replace("\n", " ") for column in columns))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    # Data is shown as it is: `:key:` in a name is no picture of one.
    console = Console(color_system=None, emoji=False) if os.environ.get("NO_COLOR") else Console(emoji=False)
    for column in columns:
        table.add_column(column.upper(), overflow="fold")
    for row in rows:
        table.add_row(*(clean(row.get(column)) for column in columns))
    console.print(table, markup=False)


def _document(value: object, form: str) -> None:
    if form == "json":
        _write(_json(value, indent=2))
    else:
        _write(yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip())


def _json(value: object, indent: int | None = None) -> str:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _CONTROL_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _write(line: str) -> None:
    # Nothing that gets here has control characters: JSON and YAML escape them, the rest was cleaned above.
    print(line)  # noqa: T201
