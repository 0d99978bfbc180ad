"""Whether a process's event loop still runs; a process whose loop is stuck for good ends, so that it is restarted.

Kubernetes asks `/live`, next to `/metrics`; Docker Compose and `sightline up` restart only what has ended.
"""

import asyncio
import os
import sys
import threading
import traceback
from collections.abc import Callable

from services.kit.log import Log

STEPS = 60  # checks until the loop counts as stuck; `/live` says so after a third of them
LAST_WORDS_SECONDS = 2.0  # for the log line, whose lock the loop may hold

_log = Log(__name__)


class Pulse:
    """Beats in the running event loop, watched by a thread.

    Law: after STEPS checks without a beat the process ends with status 1, and a log line with the loop's stack. Checks
    count, not time: a paused process, a sleeping machine, or a thread that holds the interpreter's lock delays the
    watcher as much as the loop. With `stuck_seconds` 0 the process never ends.
    """

    def __init__(self, stuck_seconds: float, end: Callable[[], None] | None = None) -> None:
        self._loop, self._thread_id = asyncio.get_running_loop(), threading.get_ident()
        self._ends, self._end = stuck_seconds > 0, end or self._end_process
        self._step_seconds = (stuck_seconds or STEPS) / STEPS
        self._beats, self._seen, self._missed = 0, 0, 0
        self._closed = threading.Event()
        self._beat()
        threading.Thread(target=self._watch, name="pulse", daemon=True).start()

    @property
    def is_late(self) -> bool:
        """Whether the loop has not run for a third of the time after which it counts as stuck."""
        return self._missed > STEPS // 3

    def close(self) -> None:
        """Stops watching."""
        self._closed.set()

    def look(self) -> None:
        """Checks for a beat since the last check; ends the process after too many without one."""
        self._missed = self._missed + 1 if self._seen == self._beats else 0
        self._seen = self._beats
        if self._ends and self._missed > STEPS:
            self._end()

    def _beat(self) -> None:
        self._beats += 1
        if not self._closed.is_set():
            self._loop.call_later(self._step_seconds / 2, self._beat)

    def _watch(self) -> None:
        while not self._closed.wait(self._step_seconds):
            self.look()

    def _end_process(self) -> None:
        threading.Timer(LAST_WORDS_SECONDS, os._exit, (1,)).start()
        frames = sys._current_frames()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - it is documented
        frame = frames.get(self._thread_id)
        stack = "".join(traceback.format_stack(frame)) if frame else ""
        _log.error("event_loop_stuck", seconds=self._missed * self._step_seconds, stack=stack)
        os._exit(1)
