"""Fixtures for tests of an application's jobs.

Switch them on in a conftest.py: `pytest_plugins = ["quorra_worker_sdk.pytest_plugin"]`. `quorra_test(worker, deps=...)`
makes a `TestWorker` that ends with the test; `quorra_clock` is the clock of all of them.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from quorra_worker_sdk.testing import TestClock, TestWorker


@pytest.fixture
def quorra_clock() -> TestClock:
    """The clock of the test's queues; it stands still until the test moves it."""
    return TestClock()


@pytest.fixture
def quorra_test(quorra_clock: TestClock) -> Iterator[Callable[..., TestWorker[Any]]]:
    """Makes a `TestWorker` of a worker: `.enqueue()` fills a queue in memory until the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda worker, **options: stack.enter_context(TestWorker(worker, clock=quorra_clock, **options))
