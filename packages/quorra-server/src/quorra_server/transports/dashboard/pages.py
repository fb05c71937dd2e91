"""The pages: queue counts and recent jobs, one job, and a way to sign in."""

import secrets
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from sanic import Sanic
from sanic.request import Request
from sanic.response import HTTPResponse

from quorra_server.config import Security
from quorra_server.domain.errors import InvalidRequest, JobNotFound, QuorraError, StorageUnavailable, Unauthenticated
from quorra_server.domain.states import JobStatus
from quorra_server.domain.validation import parse_id
from quorra_server.services.cancel import get_job
from quorra_server.storage import history, queues, workers
from quorra_server.storage import jobs as store
from quorra_server.storage.jobs import JobFilter
from quorra_server.transports.dashboard.sessions import Sessions
from quorra_server.transports.rest.routes import Memory, Server, read_body
from quorra_server.transports.status import status_of

COOKIE = "quorra_session"
REFRESH_SECONDS = 5
RECENT_JOBS = 25
FORM_BYTES_MAX = 4_096
UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))

Page = Callable[..., Coroutine[Any, Any, HTTPResponse]]


class Dashboard:
    """The pages of one server."""

    def __init__(self, server: Server, authenticate: Callable[[str | None], str], security: Security) -> None:
        """Take what the pages show, what knows the keys, and whether the server asks anybody for one."""
        self._server = server
        self._authenticate = authenticate
        self._is_open = not security.auth
        self._sessions = Sessions(server.database.main, security.api_key)
        self._memory = Memory(FORM_BYTES_MAX * 100)
        self._templates = Environment(
            loader=PackageLoader("quorra_server.transports.dashboard"),
            autoescape=select_autoescape(default=True, default_for_string=True),
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["ago"] = lambda moment: ago(moment, datetime.now(UTC))

    def bind(self, app: Sanic[Any, Any]) -> None:
        """Add the pages to an application."""
        app.add_route(self._for_members(self._overview), "/", methods=["GET", "HEAD"], name="dashboard", stream=True)
        app.add_route(
            self._for_members(self._job),
            "/jobs/<job_id:str>",
            methods=["GET", "HEAD"],
            name="dashboard_job",
            stream=True,
        )
        app.add_route(
            self._for_all(self._login), "/login", methods=["GET", "HEAD"], name="dashboard_login", stream=True
        )
        app.add_route(self._for_all(self._sign_in), "/login", methods=["POST"], name="dashboard_sign_in", stream=True)
        app.add_route(
            self._for_all(self._sign_out), "/logout", methods=["POST"], name="dashboard_sign_out", stream=True
        )

    def _for_members(self, page: Page) -> Page:
        async def signed_in(request: Request, **path: str) -> HTTPResponse:
            if not (self._is_open or await self._sessions.is_open(request.cookies.get(COOKIE))):
                return HTTPResponse(status=303, headers={"Location": "/login"})
            return await page(request, **path)

        return self._for_all(signed_in)

    def _for_all(self, page: Page) -> Page:
        async def shown(request: Request, **path: str) -> HTTPResponse:
            try:
                return await page(request, **path)
            except QuorraError as error:
                # What comes back by itself is looked for by itself.
                refresh = REFRESH_SECONDS if isinstance(error, StorageUnavailable) else None
                return self._render("error.html", status=status_of(error).http, error=error, refresh=refresh)

        return shown

    async def _overview(self, request: Request) -> HTTPResponse:
        counts = await queues.count_queues(self._server.database.main)
        status = _status(request.args.get("status"))
        positions = await store.list_jobs(self._server.database.main, JobFilter(status=status), limit=RECENT_JOBS)
        jobs = await store.get_jobs(self._server.database.main, [position.job_id for position in positions])
        totals = {name: sum(by_status[name] for by_status in counts.values()) for name in JobStatus}
        return self._render(
            "overview.html",
            refresh=REFRESH_SECONDS,
            statuses=list(JobStatus),
            totals=totals,
            waiting=totals[JobStatus.PENDING] + totals[JobStatus.FAILED],
            counts=counts,
            workers=await workers.list_workers(self._server.database.main),
            jobs=jobs,
            chosen=status,
            address=f"{request.scheme}://{request.host}",
            can_leave=not self._is_open,
        )

    async def _job(self, _: Request, job_id: str) -> HTTPResponse:
        database = self._server.database.main
        try:
            job = await get_job(database, parse_id(job_id))
        except InvalidRequest as error:
            raise JobNotFound(f"There is no job {job_id[:40]}: that is not an id.") from error
        attempts = await history.list_history(database, job.id)
        return self._render(
            "job.html", refresh=REFRESH_SECONDS, job=job, attempts=attempts, can_leave=not self._is_open
        )

    async def _login(self, _: Request) -> HTTPResponse:
        return self._render("login.html", problem=None)

    async def _sign_in(self, request: Request) -> HTTPResponse:
        if not _is_same_origin(request):
            return self._render("login.html", status=403, problem="The form came from another site; sign in here.")
        try:
            # The form is small; reading it through Sanic would need its own body handling.
            request.body = await read_body(request, FORM_BYTES_MAX, self._memory, "the form")
            form = request.form
            self._authenticate(form.get("key") if form else None)
            session_id = await self._sessions.open()
        except Unauthenticated:
            return self._render("login.html", status=401, problem="That is not the API key of this server.")
        except QuorraError as error:
            return self._render("login.html", status=status_of(error).http, problem=error.message)
        response = HTTPResponse(status=303, headers={"Location": "/"})
        response.add_cookie(
            COOKIE,
            session_id,
            httponly=True,
            samesite="Strict",
            secure=request.headers.get("x-forwarded-proto") == "https",
            path="/",
        )
        return response

    async def _sign_out(self, request: Request) -> HTTPResponse:
        if _is_same_origin(request):
            await self._sessions.close(request.cookies.get(COOKIE))
        return HTTPResponse(status=303, headers={"Location": "/login"})

    def _render(self, template: str, *, status: int = 200, **values: object) -> HTTPResponse:
        nonce = secrets.token_urlsafe(16)
        page = self._templates.get_template(template).render(nonce=nonce, version=self._server.version, **values)
        sources = f"default-src 'none'; style-src 'nonce-{nonce}'"
        return HTTPResponse(
            page,
            status=status,
            content_type="text/html; charset=utf-8",
            headers={
                "Content-Security-Policy": f"{sources}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "same-origin",
                "Cache-Control": "no-store",
            },
        )


def ago(moment: datetime, now: datetime) -> str:
    """Return how long ago a moment was, or how far ahead it is, in the largest whole unit: `3 min ago`, `in 2 h`."""
    seconds = abs((now - moment).total_seconds())
    length, unit = next(((length, unit) for length, unit in UNITS if seconds >= length), UNITS[-1])
    distance = f"{int(seconds / length):,} {unit}"
    return f"{distance} ago" if moment <= now else f"in {distance}"


def _status(text: str | None) -> JobStatus | None:
    try:
        return JobStatus(text) if text else None
    except ValueError:
        return None


def _is_same_origin(request: Request) -> bool:
    """Say whether a form was sent by a page of this server; browsers name the origin of every POST."""
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host")
