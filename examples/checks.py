"""Does the world look as it should after the demo? Each check returns what it found, and what is missing."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from examples.receivers import Received


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the demo's table."""

    what: str
    wanted: int
    found: int
    problems: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        return self.wanted == self.found and not self.problems


def check_mails(wanted: Sequence[tuple[str, str, str]], in_box: Iterable[tuple[str, str, str]]) -> Check:
    """Every mail is in the box, word for word. At-least-once: a second copy would be legal, a missing one is not."""
    box = Counter(in_box)
    missing = [mail for mail in wanted if not box[mail]]
    problems = tuple(f"no mail to {to} with subject {subject!r}" for to, subject, _ in missing)
    return Check("mails read back from the mailbox", len(wanted), len(wanted) - len(missing), problems)


def check_webhooks(wanted: Sequence[int], received: Received) -> Check:
    """Every event was received with a right signature, also the ones that were turned away at first."""
    numbers = {event["number"] for event in received.events}
    problems = [f"event {number} was not received" for number in wanted if number not in numbers]
    if received.wrong_signatures:
        problems.append(f"{received.wrong_signatures} requests had a wrong signature")
    return Check("webhooks received, signature right", len(wanted), len(numbers & set(wanted)), tuple(problems))


def check_thumbnails(wanted: Sequence[Path], sources: Sequence[Path], width: int) -> Check:
    """Every thumbnail can be opened and has the size that was asked for; a smaller picture stays as it is."""
    problems = []
    for path, source in zip(wanted, sources, strict=True):
        try:
            with Image.open(path) as picture, Image.open(source) as original:
                picture.load()
                if max(picture.size) != min(width, max(original.size)):
                    problems.append(f"{path.name} measures {picture.size}")
        except OSError as error:
            problems.append(f"{path.name}: {error}")
    return Check("thumbnails opened and measured", len(wanted), len(wanted) - len(problems), tuple(problems))
