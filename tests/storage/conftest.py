"""The queue that storage tests speak to."""

from collections.abc import AsyncIterator

import pytest

from tests.support.queue_spec import QueueSpec


@pytest.fixture
async def queue(database_url: str) -> AsyncIterator[QueueSpec]:
    """The store functions on a database of the test's own."""
    async with QueueSpec(database_url) as spec:
        yield spec
