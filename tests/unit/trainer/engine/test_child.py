"""The training child as a process: it replies on its pipe, and does not outlive its worker."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from services.trainer.framing import frame, send
from services.trainer.messages import Message, Progress, Ready, Result
from tests.unit.trainer.engine.shapes import linear_recipe, task_for, tuning_recipe, write_snapshot
from tests.unit.trainer.pipe import receive_message

GONE_SECONDS = 20.0
COMMAND = [sys.executable, "-m", "services.trainer.engine"]
WORKER = """
import asyncio, sys
from pathlib import Path
from services.trainer.framing import receive_task
from services.trainer.messages import Progress
from services.trainer.worker.child_pool import ChildPool

async def main():
    child = await ChildPool(1).take()
    async for message in child.run(receive_task(sys.stdin.buffer)):
        if isinstance(message, Progress) and message.phase == "train":
            print(child.pid, flush=True)

asyncio.run(main())
"""


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    return write_snapshot(tmp_path / "snapshot")


@pytest.fixture
def held_open() -> Iterator[tuple[int, int]]:
    """A pipe that stays open until the test ends."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def _lives(pid: int) -> bool:
    """Whether the process runs; zombies do not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + GONE_SECONDS
    while _lives(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not _lives(pid)


def test_the_child_replies_on_its_pipe_and_exits(snapshot):
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        answers, tasks = cast(BinaryIO, child.stdout), cast(BinaryIO, child.stdin)
        assert isinstance(receive_message(answers), Ready)
        send(tasks, task_for(snapshot, linear_recipe()))
        messages: list[Message] = []
        while (message := receive_message(answers)) is not None:
            messages.append(message)
        assert isinstance(messages[-1], Result)
        assert child.wait() == 0


def test_a_child_whose_stdin_closes_before_a_task_exits():
    done = subprocess.run(COMMAND, input=b"", capture_output=True, check=True)
    assert done.returncode == 0


def test_a_busy_child_ends_when_its_stdin_closes(snapshot):
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        answers, tasks = cast(BinaryIO, child.stdout), cast(BinaryIO, child.stdin)
        send(tasks, task_for(snapshot, tuning_recipe(max_epochs=10_000)))
        _until_it_trains(answers)
        tasks.close()
        assert child.wait(GONE_SECONDS) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only its kernel does this")
def test_the_kernel_ends_a_child_whose_parent_is_killed_even_if_its_stdin_stays_open(snapshot, held_open):
    script = f"import subprocess, time\nprint(subprocess.Popen({COMMAND!r}, stdin=0, stdout=2).pid, flush=True)\n"
    with subprocess.Popen(
        [sys.executable, "-c", script + "time.sleep(600)"],
        stdin=held_open[0],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as parent:
        pid = int(cast(BinaryIO, parent.stdout).readline())
        os.write(held_open[1], frame(task_for(snapshot, tuning_recipe(max_epochs=10_000))))
        _until_it_trains(cast(BinaryIO, parent.stderr))
        parent.kill()
        assert _gone(pid)


def test_a_child_of_a_worker_that_is_killed_is_gone_at_once(snapshot):
    with subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        send(cast(BinaryIO, worker.stdin), task_for(snapshot, tuning_recipe(max_epochs=10_000)))
        pid = int(cast(BinaryIO, worker.stdout).readline())
        assert _lives(pid)
        worker.kill()
        assert _gone(pid)


def _until_it_trains(answers: BinaryIO) -> None:
    while (message := receive_message(answers)) is not None:
        if isinstance(message, Progress) and message.phase == "train":
            return
    pytest.fail("it ended before it trained")
