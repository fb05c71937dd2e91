"""What each generator measures of itself."""

import time
from typing import Any


class Stopwatch:
    """Begins when it is made."""

    def __init__(self) -> None:
        self._cpu = time.process_time()
        self._began = time.perf_counter()

    def reply(self, jobs: int, **more: Any) -> dict[str, Any]:
        """Return what a generator answers: the jobs, how long they took, and the generator's own CPU time."""
        seconds = time.perf_counter() - self._began
        return {"jobs": jobs, "seconds": seconds, "cpu_seconds": time.process_time() - self._cpu, **more}
