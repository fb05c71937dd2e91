"""JSON as it is kept: the text stays exactly as it was sent, and what no reader could use is refused at the door."""

import re
from typing import Literal

import msgspec

from quorra_server.domain.errors import FieldProblem, InvalidRequest, PayloadTooLarge
from quorra_server.domain.limits import Limits, setting_of

# A backslash-u escape of NUL, or of one half of a surrogate pair without the other.
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_PAIR = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_HALF = re.compile(r"(?<!\\)(?:\\\\)*\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
# PostgreSQL compares numbers of up to 131,072 digits before the point and 16,383 behind it, and an exponent moves the
# point: 6,000 digits and an exponent of four stay below both. Looking behind, a long number is walked over once only.
_INCOMPARABLE = re.compile(r"(?<![\d.])\d[\d.]{6000}|[eE][+-]?0*[1-9]\d{4}")
_OPENING = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]')
# Walks over a text without building its values: all of the grammar is checked, and a number may be of any size.
_check_grammar = msgspec.json.Decoder(msgspec.Raw).decode


SizeLimit = Literal["payload_bytes_max", "result_bytes_max"]


def checked_json(
    text: bytes | str, field: str, limits: Limits, *, size: SizeLimit = "payload_bytes_max", object_only: bool = False
) -> str:
    """Return a JSON text unchanged, if it is one that every reader can use.

    Args:
        size: Which of the limits bounds its bytes.

    Raises:
        InvalidRequest: Not JSON, too deep, with a character that cannot be stored, or not an object if one is needed.
        PayloadTooLarge: More bytes than the limit.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(raw) > getattr(limits, size):
        raise PayloadTooLarge(f"{field} has {len(raw):,} bytes; at most {limits.named(size)} are taken.", field=field)
    depth_max = limits.json_depth_max
    try:
        decoded_text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refused(field, f"{field} is not valid UTF-8 (byte {error.start}); encode it as UTF-8.") from error
    if raw.count(b"[") + raw.count(b"{") > depth_max and _depth(decoded_text) > depth_max:
        raise _refused(
            field, f"{field} is nested deeper than {depth_max} levels ({setting_of('json_depth_max')}); flatten it."
        )
    # Most texts have no escapes at all, which one character tells at once.
    if "\\" in decoded_text and (unusable := unusable_character(raw)):
        raise _refused(field, f"{field} is not usable: {unusable}.")
    _check_syntax(raw, field, object_only=object_only)
    return decoded_text


def searchable_json(text: bytes | str, field: str, limits: Limits) -> str:
    """Return a JSON text unchanged, if payloads can be searched for it.

    Raises:
        InvalidRequest: Not JSON, or with a number that PostgreSQL cannot compare.
    """
    checked = checked_json(text, field, limits)
    if _INCOMPARABLE.search(_OPENING.sub("", checked)):
        raise _refused(
            field,
            f"{field} has a number that cannot be searched for; use fewer than 6,000 digits, within 1e-9999 to 1e9999.",
        )
    return checked


def _check_syntax(raw: bytes, field: str, *, object_only: bool) -> None:
    if object_only and not raw.startswith(b"{") and not raw.lstrip(b" \t\r\n").startswith(b"{"):
        raise _refused(field, f'{field} needs to be a JSON object, such as {{"to": "a@b.c"}}.')
    try:
        _check_grammar(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _refused(field, f"{field} is not valid JSON: {error}.") from error


def unusable_character(raw: bytes) -> str | None:
    """Return what is wrong with the characters that a JSON text spells with escapes, or None."""
    if b"\\u" not in raw:
        return None
    text = raw.decode("utf-8", "replace")
    if _ESCAPED_NUL.search(text):
        return "it has a NUL character (\\u0000), which cannot be stored; remove it"
    if _HALF.search(_PAIR.sub("", text)):
        return "it has half of a surrogate pair, which is no character; send both halves"
    return None


def _depth(text: str) -> int:
    depth = deepest = 0
    for match in _OPENING.finditer(text):
        character = match.group()
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _refused(field: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, problems=[FieldProblem(field, message)])
