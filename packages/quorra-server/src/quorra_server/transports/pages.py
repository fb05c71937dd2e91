"""Cursors: where a page of a list ended, as an opaque text."""

import base64
import struct
from uuid import UUID

from quorra_server.domain.errors import FieldProblem, InvalidRequest
from quorra_server.storage.jobs import Position

_POSITION = struct.Struct(">16sqi")


def encode_cursor(position: Position) -> str:
    """Return a position as a text that fits in a URL."""
    packed = _POSITION.pack(position.job_id.bytes, position.batch, position.ordinal)
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def decode_cursor(text: str, field: str) -> Position:
    """Return the position of a cursor.

    Raises:
        InvalidRequest: It is not one that a list returned.
    """
    try:
        packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        job_id, batch, ordinal = _POSITION.unpack(packed)
    except (ValueError, struct.error) as error:
        message = f"{field} is not a cursor that a list returned; start again without it."
        raise InvalidRequest(message, problems=[FieldProblem(field, message)]) from error
    return Position(UUID(bytes=job_id), batch, ordinal)
