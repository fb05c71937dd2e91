"""How a run ended, as the session reports it."""

from msgspec import Struct
from quorra_proto.v1 import quorra_pb2 as pb


class Success(Struct, gc=False):
    """A run that succeeded.

    It is written into its message when that is sent: to make a message for each success, and to copy it there, takes
    three times as long, and most runs succeed.

    Attributes:
        result: JSON; empty for none.
        run_ms: How long the run took.
    """

    lease_id: str
    result: bytes = b""
    run_ms: int = 0


Ending = Success | pb.Failed | pb.Released | pb.Snoozed | pb.Cancelled
"""What is reported of a run."""
