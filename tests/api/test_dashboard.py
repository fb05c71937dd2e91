"""The dashboard: signing in, what it shows, and that nothing of a job is ever markup."""

import asyncio
import hashlib
import re
import shutil
import socket
import subprocess
import tempfile
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from tests.support.processes import NO_TLS, RunningServer, start_server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def browser(shared_server: RunningServer) -> httpx.Client:
    return httpx.Client(base_url=shared_server.http_url, verify=NO_TLS)


def _sign_in(browser: httpx.Client, key: str) -> httpx.Response:
    return browser.post("/login", data={"key": key})


def test_without_a_session_there_is_only_the_way_in(browser: httpx.Client) -> None:
    reply = browser.get("/")

    assert (303, "/login") == (reply.status_code, reply.headers["location"])
    assert "API key" in browser.get("/login").text


def test_a_key_is_exchanged_for_a_cookie_that_scripts_cannot_read(
    browser: httpx.Client, shared_server: RunningServer
) -> None:
    refused = _sign_in(browser, "wrong")
    reply = _sign_in(browser, shared_server.api_key)

    cookie = reply.headers["set-cookie"]
    assert 401 == refused.status_code
    assert 303 == reply.status_code
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert shared_server.api_key not in cookie


def test_a_form_of_another_site_is_refused(browser: httpx.Client, shared_server: RunningServer) -> None:
    reply = browser.post("/login", data={"key": shared_server.api_key}, headers={"Origin": "https://evil.example"})

    assert 403 == reply.status_code


def test_it_shows_queues_and_jobs_and_escapes_everything(
    browser: httpx.Client, shared_server: RunningServer, api: httpx.Client, queue_name: str
) -> None:
    submitted = api.post(
        "/v1/jobs",
        json={"type": "<b>bold</b>", "payload": {"x": "<script>alert(1)</script>"}, "queue": queue_name},
    ).json()
    _sign_in(browser, shared_server.api_key)

    overview, job = browser.get("/"), browser.get(f"/jobs/{submitted['id']}")
    filtered = browser.get("/?status=dead")

    policy = overview.headers["content-security-policy"]
    assert queue_name in overview.text
    assert submitted["id"] in overview.text
    assert submitted["id"] not in filtered.text
    assert "<script" not in overview.text + job.text
    assert "<b>bold" not in overview.text + job.text
    assert "default-src 'none'" in policy
    assert re.search(r"style-src 'nonce-[\w-]{20,}'", policy)
    assert 404 == browser.get("/jobs/not-an-id").status_code


def test_signing_out_ends_the_session(browser: httpx.Client, shared_server: RunningServer) -> None:
    _sign_in(browser, shared_server.api_key)
    assert 200 == browser.get("/").status_code

    browser.post("/logout")

    assert 303 == browser.get("/").status_code


def test_who_signed_in_at_one_server_is_signed_in_at_all(database_url: str) -> None:
    with (
        start_server(database_url) as one,
        start_server(database_url) as other,
        httpx.Client(base_url=one.http_url, verify=NO_TLS) as browser,
    ):
        _sign_in(browser, one.api_key)

        page = browser.get(f"{other.http_url}/")
        browser.post(f"{other.http_url}/logout")
        after = browser.get(f"{one.http_url}/")

    assert (200, 303) == (page.status_code, after.status_code)


def test_a_session_is_kept_as_a_digest(shared_server: RunningServer, browser: httpx.Client) -> None:
    session_id = _sign_in(browser, shared_server.api_key).cookies["quorra_session"]

    async def kept() -> list[bytes]:
        connection = await asyncpg.connect(shared_server.database_url)
        try:
            return [row["digest"] for row in await connection.fetch("SELECT digest FROM quorra.sessions")]
        finally:
            await connection.close()

    digests = asyncio.run(kept())

    salt = hashlib.sha256(shared_server.api_key.encode()).digest()
    assert hashlib.sha256(salt + session_id.encode()).digest() in digests
    assert session_id.encode() not in b"".join(digests)


def test_a_session_is_kept_alive_by_looking_once_a_minute(shared_server: RunningServer, browser: httpx.Client) -> None:
    _sign_in(browser, shared_server.api_key)

    used = asyncio.run(_looked_at(browser, shared_server.database_url))

    # At once it is fresh; after two minutes it is used again; after half an hour it is over.
    assert [(200, False), (200, True), (303, False)] == used


async def _looked_at(browser: httpx.Client, database_url: str) -> list[tuple[int, bool]]:
    """Look at a page with sessions that were used a moment, two minutes and half an hour ago."""
    connection = await asyncpg.connect(database_url)
    answers = []
    for minutes in (0, 2, 31):
        used_at = await connection.fetchval(
            "UPDATE quorra.sessions SET used_at = now() - make_interval(mins => $1) RETURNING used_at", minutes
        )
        status = browser.get("/").status_code
        is_later = await connection.fetchval("SELECT max(used_at) > $1 FROM quorra.sessions", used_at)
        answers.append((status, is_later))
    await connection.close()
    return answers


@pytest.mark.parametrize("path", ["/", "/logout"])
def test_a_cookie_that_is_no_text_is_nobodys(shared_server: RunningServer, path: str) -> None:
    parts = urlsplit(shared_server.http_url)
    verb = b"POST" if path == "/logout" else b"GET"
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(
            verb + b" " + path.encode() + b" HTTP/1.1\r\nHost: x\r\nCookie: quorra_session=\xff\xfe\r\n"
            b"Content-Length: 0\r\nConnection: close\r\n\r\n"
        )
        answer = connection.recv(65_536)

    assert answer.startswith(b"HTTP/1.1 303 "), answer


def test_a_new_key_ends_the_sessions_of_the_old_one(database_url: str) -> None:
    with (
        start_server(database_url) as old,
        start_server(database_url, {"QUORRA_API_KEY": "another-key-of-thirty-two-characters"}) as new,
        httpx.Client(base_url=old.http_url, verify=NO_TLS) as browser,
    ):
        _sign_in(browser, old.api_key)

        assert (200, 303) == (browser.get("/").status_code, browser.get(f"{new.http_url}/").status_code)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; the pages are tested over HTTP all the same")
def test_a_real_browser_renders_it(database_url: str) -> None:
    with start_server(database_url, {"QUORRA_ENV": "development", "QUORRA_AUTH": "off"}) as server:
        httpx.post(f"{server.http_url}/v1/jobs", json={"type": "seen", "payload": {}, "queue": "in-the-browser"})
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            done = subprocess.run(
                [
                    str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                    "--disable-background-networking", "--disable-component-update", "--disable-sync",
                    f"--user-data-dir={profile}", "--virtual-time-budget=2000", "--dump-dom", server.http_url,
                ],
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip

    assert "in-the-browser" in done.stdout
    assert "Refused to apply" not in done.stderr
