"""JSON for payloads, checkpoints and results: msgspec, and pydantic models where an application has them."""

from collections.abc import Callable
from typing import Any

import msgspec


def _plain(value: Any) -> Any:
    if is_pydantic(type(value)):
        return value.model_dump(mode="json", by_alias=True)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON; return plain values, dataclasses or structs")


def _model(kind: Any, value: Any) -> Any:
    if is_pydantic(kind):
        return kind.model_validate(value)
    if isinstance(kind, type) and isinstance(value, kind):
        # `object` is anything.
        return value
    raise TypeError(f"{kind} cannot be read from JSON")


def is_pydantic(kind: Any) -> bool:
    """Say whether a type is a pydantic model, without importing pydantic."""
    return isinstance(kind, type) and hasattr(kind, "model_validate") and hasattr(kind, "model_dump")


encode: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=_plain).encode
"""Write a value as JSON; TypeError says what cannot be written."""


def text(value: Any, bytes_max: int | None = None) -> str:
    """Return a value as text that a message can hold, cut to so many bytes of UTF-8; never within a character.

    Half a surrogate pair, as the name of a file may hold, has no bytes in UTF-8 and is spelled out.
    """
    return str(value).encode("utf-8", "backslashreplace")[:bytes_max].decode(errors="ignore")


def decoder(kind: Any) -> Callable[[bytes], Any]:
    """Return what reads JSON into a type; it raises ValueError, with the path of what does not fit."""
    if is_pydantic(kind):
        # Reading JSON by itself, even a strict model takes dates from text.
        validate: Callable[[bytes], Any] = kind.model_validate_json
        return validate
    return msgspec.json.Decoder(kind, dec_hook=_model).decode


def convert(value: Any, kind: Any) -> Any:
    """Return a value that JSON was read into as a type; ValueError says what does not fit."""
    return msgspec.convert(value, kind, dec_hook=_model)
