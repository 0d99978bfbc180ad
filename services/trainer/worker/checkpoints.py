"""The worker stores a child's checkpoints while the child carries on."""

import asyncio
from pathlib import Path

from services.kit.clock import Clock
from services.kit.errors import LeaseLost, SightlineError
from services.kit.log import Log
from services.trainer.messages import Checkpoint, CheckpointDone, SaveNow
from services.trainer.worker.attempt import AnyAttempt
from services.trainer.worker.child_pool import Child
from services.trainer.worker.workspace import Workspace

_log = Log(__name__)


class Checkpoints:
    """One child's checkpoints, stored one at a time, the newest first.

    One that cannot be stored is skipped, as the next one covers more; the training goes on.
    """

    def __init__(self, child: Child, attempt: AnyAttempt, workspace: Workspace, prefix: str, clock: Clock) -> None:
        self._child = child
        self._attempt = attempt
        self._workspace = workspace
        self._prefix = prefix
        self._clock = clock
        self._newest: tuple[Checkpoint, float] | None = None  # with its time of arrival
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._last_asked = False
        self._last_step: int | None = None
        self._last_stored = asyncio.Event()

    def arrived(self, checkpoint: Checkpoint) -> None:
        """Queues a checkpoint to be stored; it replaces one that still waits."""
        if self._last_asked and self._last_step is None:
            self._last_step = checkpoint.step
        self._newest = checkpoint, self._clock.monotonic()
        self._news.set()
        self._idle.clear()

    async def store(self) -> None:
        """Stores what arrives, until cancelled; LeaseLost."""
        while True:
            await self._news.wait()
            self._news.clear()
            assert self._newest is not None, "there is news"
            checkpoint, arrived = self._newest
            await self._keep(checkpoint)
            self._child.tell(CheckpointDone(step=checkpoint.step, seconds=self._clock.monotonic() - arrived))
            if self._last_step is not None and checkpoint.step >= self._last_step:
                self._last_stored.set()
            if not self._news.is_set():
                self._idle.set()

    async def settled(self) -> None:
        """Returns once everything that arrived is stored or skipped."""
        await self._idle.wait()

    async def save_last(self) -> None:
        """Has the child save a checkpoint, and returns once that is stored or skipped."""
        self._last_asked = True
        self._child.tell(SaveNow())
        await self._last_stored.wait()

    async def _keep(self, checkpoint: Checkpoint) -> None:
        """Uploads and commits a checkpoint, and deletes the one before."""
        key = f"{self._prefix}checkpoint-{checkpoint.step}/"
        before = self._attempt.record.work.checkpoint_key
        try:
            await self._workspace.upload(Path(checkpoint.path), key)
            await self._attempt.commit(checkpoint.used, key)
        except LeaseLost:
            raise
        except (SightlineError, OSError) as error:
            _log.warning("checkpoint_skipped", step=checkpoint.step, problem=str(error))
            return
        if before and before != key:
            await self._workspace.forget(before)
