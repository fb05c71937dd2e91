"""Waiting for conditions, never for time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")
LOOK_SECONDS = 0.02


async def eventually(look: Callable[[], Awaitable[Value]], what: str, *, timeout: float = 10.0) -> Value:
    """Return what `look` finds, as soon as it is true; fail after `timeout` seconds with the last finding."""
    deadline = time.monotonic() + timeout
    while True:
        found = await look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}; last found {found!r}")
        await asyncio.sleep(LOOK_SECONDS)


def eventually_sync(look: Callable[[], Value], what: str, *, timeout: float = 10.0) -> Value:
    """Like `eventually`, for code without an event loop."""
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}; last found {found!r}")
        time.sleep(LOOK_SECONDS)


def eventually_text(path: Path, what: str) -> str:
    """Return what `path` holds, as soon as it holds something: a file exists before its first byte is written."""
    return eventually_sync(lambda: written(path), what)


def written(path: Path) -> str:
    """Return what a file holds by now; nothing while it does not exist."""
    return path.read_text() if path.exists() else ""
