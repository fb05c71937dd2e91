"""Taking apart: of many that met a bug together, those that meet it alone are found, and the others are done."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from quorra_server.domain.errors import QuorraError

Item = TypeVar("Item")
Result = TypeVar("Result")


async def by_halves(
    work: Callable[[Sequence[Item]], Awaitable[Result]],
    items: Sequence[Item],
    bug: Exception,
    blame: Callable[[Item, Exception], None],
) -> AsyncIterator[Result]:
    """Work on halves of what met a bug together, and on halves of these, and yield the result of each part that passes.

    One culprit among a thousand costs twenty statements; a thousand culprits cost two each.

    Args:
        work: Has done nothing if it raises a bug.
        items: What met the bug together.
        bug: The bug.
        blame: Called with each item that meets a bug alone, and that bug.

    Raises:
        QuorraError: Something that is no bug came in between. What was yielded is done, the rest need not be.
    """
    stuck = [(items, bug)]
    while stuck:
        part, met = stuck.pop()
        if len(part) <= 1:
            for item in part:
                blame(item, met)
            continue
        middle = len(part) // 2
        for half in (part[:middle], part[middle:]):
            try:
                result = await work(half)
            except QuorraError:
                raise
            except Exception as error:
                stuck.append((half, error))
            else:
                yield result
