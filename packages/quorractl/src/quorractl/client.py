"""The REST interface: a method for each route."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx

from quorractl.contexts import Context
from quorractl.errors import Refused, Unreachable, UsageMistake

CALL_SECONDS = 30.0
# For what takes the longer the more jobs there are: a server whose client leaves stops halfway.
UNHURRIED = httpx.Timeout(CALL_SECONDS, read=None)
# Python reads no longer whole number unless it is told to, since that takes time.
NUMBER_CHARACTERS_MAX = 4_300
NDJSON = "application/x-ndjson"
PORTS = range(1, 65_536)
# Visible ASCII, with spaces inside only: what every server and proxy takes as it is.
_HEADER_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
Json = dict[str, Any]


class Client:
    """Talks to one server.

    Attributes:
        server: Its address, as it may be shown and kept: without a user's name and password.
    """

    def __init__(self, context: Context) -> None:
        """Take where it is; connects when it is first used.

        Raises:
            UsageMistake: The address or the key cannot be one.
        """
        address = address_of(context.server)
        # A key that was read from a file often has the end of its line with it.
        key = _header_value(context.api_key.strip(), "The API key (QUORRA_API_KEY, or that of the context)")
        self.server = str(address.copy_with(userinfo=b""))
        self._http = httpx.Client(base_url=address, headers={"X-API-Key": key} if key else {}, timeout=CALL_SECONDS)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def submit_job(self, body: bytes, idempotency_key: str | None) -> Json:
        """POST /v1/jobs; the body is JSON text as it was typed.

        Raises:
            UsageMistake: No header can carry the idempotency key.
        """
        headers = {"Content-Type": "application/json"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = _header_value(idempotency_key, "--idempotency-key")
        return self._send("POST", "/v1/jobs", "id", content=body, headers=headers)

    def import_jobs(self, lines: list[bytes]) -> list[Json]:
        """POST /v1/jobs/batch as NDJSON; one answer for each line that is not blank, in their order.

        Raises:
            Unreachable: Not every line was answered; any of them may be recorded.
        """
        body = b"".join(line.rstrip(b"\n") + b"\n" for line in lines)
        response = self._request("POST", "/v1/jobs/batch", content=body, headers={"Content-Type": NDJSON})
        asked = [number for number, line in enumerate(lines, 1) if line.strip()]
        with contextlib.suppress(ValueError, LookupError, TypeError):
            answers: list[Json] = [json.loads(line) for line in response.content.split(b"\n") if line]
            if asked == [answer["line"] for answer in answers]:
                return answers
        raise Unreachable(
            f"{self.server} did not answer every line. If it is a Quorra server, the answer was cut off: import again. "
            "If not, name another one with --server or QUORRA_SERVER."
        )

    def get_job(self, job_id: str, wait_seconds: int = 0) -> Json:
        """GET /v1/jobs/{id}, perhaps after it ended."""
        params = {"wait": f"{wait_seconds}s"} if wait_seconds else {}
        path, timeout = path_of("v1", "jobs", job_id), CALL_SECONDS + wait_seconds
        return self._send("GET", path, "status", "last_error", params=params, timeout=timeout)

    def list_jobs(self, path: str, params: Mapping[str, Any], limit: int) -> Iterator[Json]:
        """GET /v1/jobs or /v1/dead, page by page, at most `limit` jobs."""
        cursor: str | None = None
        while limit > 0:
            asked = {**params, "limit": min(limit, 500), **({"cursor": cursor} if cursor else {})}
            page = self._send("GET", path, "jobs", "next_cursor", params=asked)
            yield from page["jobs"]
            limit -= len(page["jobs"])
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def read(self, *segments: str, needs: str) -> Json:
        """GET any path that answers with a JSON object; `needs` is a field of it, by which it is known."""
        return self._send("GET", path_of(*segments), needs)

    def change_job(self, job_id: str, verb: str, body: Json) -> Json:
        """POST /v1/jobs/{id}/cancel or /retry."""
        return self._send("POST", path_of("v1", "jobs", job_id, verb), "id", json=body)

    def change_matching(self, verb: str, body: Json) -> Json:
        """POST /v1/jobs/cancel or /v1/jobs/retry for all that match."""
        return self._send("POST", f"/v1/jobs/{verb}", "matched", json=body, timeout=UNHURRIED)

    def replay_dead(self, ids: list[str], payload: bytes | None) -> Json:
        """POST /v1/dead/replay."""
        body = json.dumps({"ids": ids}).encode()
        if payload is not None:
            body = body[:-1] + b', "payload": ' + payload + b"}"
        headers = {"Content-Type": "application/json"}
        return self._send("POST", "/v1/dead/replay", "jobs", "replayed", content=body, headers=headers)

    def purge_dead(self, body: Json) -> Json:
        """DELETE /v1/dead."""
        return self._send("DELETE", "/v1/dead", "purged", json=body, timeout=UNHURRIED)

    def health(self) -> tuple[int, Json]:
        """GET /readyz: its status, a text, and its problems; not being ready is an answer, not an error."""
        response = self._raw("GET", "/readyz")
        answer = self._object_of(response)
        # Problem details have a status too, which is a number.
        if isinstance(answer.get("status"), str) and isinstance(answer.get("problems"), list):
            return response.status_code, answer
        raise Refused(response.status_code, self._object_of(response, "code"))

    def _send(self, method: str, path: str, *needs: str, **options: Any) -> Json:
        return self._object_of(self._request(method, path, **options), *needs)

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        response = self._raw(method, path, **options)
        if response.is_success:
            return response
        raise Refused(response.status_code, self._object_of(response, "code"))

    def _object_of(self, response: httpx.Response, *needs: str) -> Json:
        """Return the JSON object that the server answered with.

        Raises:
            Refused: It is none, or without the fields that it needs: somebody else answered, such as a proxy.
        """
        with contextlib.suppress(ValueError, RecursionError):
            answer = json.loads(response.content, parse_int=_whole_number)
            if isinstance(answer, dict) and all(name in answer for name in needs):
                return answer
        detail = (
            f"{self.server} answered {response.status_code}, and not as a Quorra server does. Look at what stands "
            "before it, or name another one with --server or QUORRA_SERVER."
        )
        raise Refused(response.status_code, {"detail": detail})

    def _raw(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except httpx.ReadTimeout as error:
            raise Unreachable(
                f"{self.server} took the request and has not answered in time. It may be busy, and may still do what "
                "was asked."
            ) from error
        except httpx.InvalidURL as error:
            raise UsageMistake(f"What was typed is no part of an address ({error}); give less of it.") from error
        except httpx.TransportError as error:
            raise Unreachable(
                f"{self.server} does not answer ({error}). Is the server running? Name another one with --server or "
                "QUORRA_SERVER."
            ) from error


def path_of(*segments: str) -> str:
    """Return a path with ids and names in it as they were typed.

    Raises:
        UsageMistake: One is empty: the path would be that of something else.
    """
    if not all(segments):
        raise UsageMistake("An ID or a name is empty; is it from a variable that is not set?")
    return "".join(f"/{_quoted(segment)}" for segment in segments)


def _quoted(segment: str) -> str:
    # Of dots alone, a segment would be taken for a way up the path.
    return quote(segment, safe="") if segment.strip(".") else segment.replace(".", "%2E")


def _whole_number(text: str) -> int | str:
    """Return a whole number of an answer; as text where Python would not read it."""
    return int(text) if len(text) <= NUMBER_CHARACTERS_MAX else text


def address_of(text: str) -> httpx.URL:
    """Return the address of a server.

    Raises:
        UsageMistake: It cannot be one. The text is not repeated, since there may be a password in it.
    """
    with contextlib.suppress(httpx.InvalidURL, UnicodeError):
        address = httpx.URL(text)
        if address.scheme in ("http", "https") and address.host and (address.port is None or address.port in PORTS):
            return address
    raise UsageMistake(
        "The address of the server (--server, QUORRA_SERVER, or that of the context) cannot be read; write it like "
        "https://quorra.example.com or http://localhost:8080."
    )


def _header_value(text: str, what: str) -> str:
    if text and not _HEADER_VALUE.fullmatch(text):
        raise UsageMistake(
            f"{what} has characters that a header cannot carry; give visible ASCII characters, without spaces around "
            "them."
        )
    return text
