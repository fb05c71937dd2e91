"""Logs: one JSON object a line, pretty on a terminal; never a payload, never a key."""

import logging
import sys
import uuid

import structlog

from quorra_server.domain.errors import OutcomeUnknown, QuorraError, StorageUnavailable


def configure_logging(level: str) -> None:
    """Send structured logs to standard error from `level` up."""
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries speak only when something is wrong; what they say is not ours to format.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")


def log_trouble(log: structlog.typing.FilteringBoundLogger, event: str, error: Exception, **fields: object) -> None:
    """Log an error that somebody goes on after: expected ones in a line, bugs with their traceback.

    While PostgreSQL refuses, its pool says so once a second: what comes of it elsewhere is only worth a debug line.
    """
    if not isinstance(error, QuorraError):
        log.error(event, exc_info=error, **fields)
        return
    is_said_already = isinstance(error, StorageUnavailable) and not isinstance(error, OutcomeUnknown)
    say = log.debug if is_said_already else log.warning
    say(event, error=error.message, **fields)


def log_incident(log: structlog.typing.FilteringBoundLogger, event: str, bug: Exception, **fields: object) -> str:
    """Log a bug with its traceback under an id, and return the id: who is told of it can name it."""
    incident = uuid.uuid4().hex[:12]
    log.error(event, incident=incident, exc_info=bug, **fields)
    return incident
