"""The worker of deployments/compose.yaml: replace it with handlers of your own."""

import logging

from quorra_worker_sdk import Worker

log = logging.getLogger(__name__)
worker = Worker()


@worker.job("email_send")
async def email_send(to: str, subject: str = "") -> str:
    log.info("to %s: %s", to, subject)
    return "sent"
