"""What the tests of the protocols share."""

from collections.abc import AsyncIterator

import grpc
import pytest
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub

from tests.support.conversation import Conversation
from tests.support.processes import RunningServer


@pytest.fixture
async def stream(shared_server: RunningServer, queue_name: str) -> AsyncIterator[Conversation]:
    async with grpc.aio.insecure_channel(shared_server.grpc_address) as channel:
        yield Conversation(WorkerServiceStub(channel), shared_server.metadata, queue_name)
