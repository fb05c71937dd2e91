"""What can go wrong, each with its exit code and the next step."""

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3
EXIT_AUTHENTICATION = 4
EXIT_CONFLICT = 5
EXIT_UNREACHABLE = 6
EXIT_TIMED_OUT = 7
EXIT_ENDED_BADLY = 8
EXIT_INTERRUPTED = 130

_EXIT_BY_STATUS = {401: EXIT_AUTHENTICATION, 403: EXIT_AUTHENTICATION, 404: EXIT_NOT_FOUND, 409: EXIT_CONFLICT}


class CommandError(Exception):
    """A command that failed; the message says what to do next."""

    exit_code = EXIT_FAILURE

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        """Take a sentence, and the exit code if it is not the class's own."""
        super().__init__(message)
        if exit_code is not None:
            self.exit_code = exit_code


class UsageMistake(CommandError):
    """What was typed cannot be meant."""

    exit_code = EXIT_USAGE


class Unreachable(CommandError):
    """No server answers."""

    exit_code = EXIT_UNREACHABLE


class TimedOut(CommandError):
    """What was waited for has not happened in time."""

    exit_code = EXIT_TIMED_OUT


class EndedBadly(CommandError):
    """The awaited job is dead or cancelled."""

    exit_code = EXIT_ENDED_BADLY


class Refused(CommandError):
    """The server refused; carries its problem details.

    Attributes:
        code: The server's stable code, such as `job_not_found`.
    """

    def __init__(self, status: int, problem: dict[str, object]) -> None:
        """Take the reply."""
        self.status = status
        self.code = str(problem.get("code", "unknown"))
        detail = str(problem.get("detail") or problem.get("title") or f"the server answered {status}")
        more = problem.get("errors")
        lines = [detail]
        if isinstance(more, list) and len(more) > 1:
            lines.extend(f"  {entry.get('message')}" for entry in more[1:] if isinstance(entry, dict))
        if status == 401:
            lines.append("Set QUORRA_API_KEY, or choose a context with `quorractl context use NAME`.")
        super().__init__("\n".join(lines), _EXIT_BY_STATUS.get(status, EXIT_FAILURE))
