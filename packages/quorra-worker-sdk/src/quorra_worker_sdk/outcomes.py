"""How a handler ends other than by returning: raise one of these."""

from datetime import timedelta


class Outcome(BaseException):
    """Base of the outcomes that a handler may raise.

    Not an `Exception`, so that a handler's own `except Exception` does not swallow it.
    """

    reason: str

    def __str__(self) -> str:
        return self.reason


def chosen(error: BaseException) -> Outcome | None:
    """Return the outcome that a handler raised, also where a TaskGroup wrapped it; None for an error.

    An outcome beside other errors of a group does not count: the errors would be lost.
    """
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, Outcome) else None


class Snooze(Outcome):
    """Run again after a delay, and give the attempt back."""

    def __init__(self, delay: timedelta | float, reason: str = "") -> None:
        """Take the delay (seconds, if it is a number) and a reason for the history."""
        # Its arguments make it again in another process.
        super().__init__(delay, str(reason))
        self.delay_ms = _milliseconds(delay)
        self.reason = str(reason)


class RetryAfter(Outcome):
    """The run failed; run again after a delay of the handler's choice instead of the back-off."""

    def __init__(self, delay: timedelta | float, reason: str = "retry requested") -> None:
        """Take the delay (seconds, if it is a number) and the error for the history."""
        # Its arguments make it again in another process.
        super().__init__(delay, str(reason))
        self.delay_ms = _milliseconds(delay)
        self.reason = str(reason)


class Cancel(Outcome):
    """End the job for good, as cancelled."""

    def __init__(self, reason: str = "") -> None:
        """Take a reason for the history."""
        super().__init__(str(reason))
        self.reason = str(reason)


class Dead(Outcome):
    """The run failed, and no further run can mend it: the job is dead at once."""

    def __init__(self, reason: str) -> None:
        """Take the error for the history."""
        super().__init__(str(reason))
        self.reason = str(reason)


def _milliseconds(delay: timedelta | float) -> int:
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
    if not 0 <= seconds < 10 * 365 * 86_400:
        raise ValueError(f"a delay of {seconds} s is out of range; use 0 s to 10 years")
    return round(seconds * 1000)
