"""Three handlers, as a newcomer would write them: mails, webhooks, thumbnails.

Run with: quorra-worker examples.workers:worker
"""

import asyncio
import hashlib
import hmac
import os
import smtplib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path

import httpx
import msgspec
from PIL import Image
from quorra_worker_sdk import Context, Dead, Retry, Worker


@dataclass(frozen=True, slots=True)
class Deps:
    """What the handlers share: opened once for each worker process."""

    http: httpx.AsyncClient
    smtp_host: str
    smtp_port: int
    webhook_secret: bytes


@asynccontextmanager
async def lifespan() -> AsyncIterator[Deps]:
    host, _, port = os.environ.get("SMTP_ADDR", "localhost:25").rpartition(":")
    async with httpx.AsyncClient(timeout=10) as http:
        yield Deps(http, host, int(port), os.environ.get("WEBHOOK_SECRET", "").encode())


worker = Worker(queues=["email", "webhooks", "images"], slots=8, lifespan=lifespan)


@worker.job("email_send", queue="email", timeout=timedelta(seconds=30))
async def email_send(ctx: Context[Deps], to: str, subject: str, body: str) -> str:
    """Send a mail; the same Message-ID on every attempt lets a mail server recognise a repetition."""
    if "@" not in to:
        raise Dead(f"{to!r} is not an address; no retry can mend that")
    message = EmailMessage()
    message["From"] = "demo@quorra.example"
    message["To"] = to
    message["Subject"] = subject
    message["Message-ID"] = f"<{ctx.idempotency_key}@quorra.example>"
    message.set_content(body)
    await asyncio.to_thread(_deliver, ctx.deps, message)
    return str(message["Message-ID"])


def _deliver(deps: Deps, message: EmailMessage) -> None:
    with smtplib.SMTP(deps.smtp_host, deps.smtp_port, timeout=10) as smtp:
        smtp.send_message(message)


@worker.job("webhook_call", queue="webhooks", retry=Retry(max_retries=5, backoff="fixed", base_seconds=1))
async def webhook_call(ctx: Context[Deps], url: str, event: dict[str, object]) -> int:
    """Post an event, signed so that the receiver can tell who sent it; an error status makes the run fail."""
    body = msgspec.json.encode(event)
    signature = hmac.new(ctx.deps.webhook_secret, body, hashlib.sha256).hexdigest()
    headers = {"X-Signature": f"sha256={signature}", "Idempotency-Key": ctx.idempotency_key}
    response = await ctx.deps.http.post(url, content=body, headers=headers)
    response.raise_for_status()
    return response.status_code


@worker.job("image_resize", queue="images", executor="process")
def image_resize(source: str, target: str, width: int = 160) -> dict[str, int]:
    """Make a thumbnail, in a process of its own because it holds the interpreter."""
    with Image.open(source) as picture:
        picture.thumbnail((width, width))
        # Written beside its place and moved there, so that nobody ever sees half a picture.
        unfinished = Path(target).with_suffix(".part")
        picture.convert("RGB").save(unfinished, "JPEG")
        unfinished.replace(target)
        return {"width": picture.width, "height": picture.height}
