"""Children and their pool, with real processes that train nothing."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from services.kit.telemetry import MemoryTelemetry
from services.trainer import __main__ as process
from services.trainer import metrics
from services.trainer.messages import EvaluateTask, Failed, Message, Progress
from services.trainer.worker import child_pool
from services.trainer.worker.child_pool import (
    HANG_SECONDS,
    Child,
    ChildDied,
    ChildHung,
    ChildNotStarted,
    ChildPool,
    DeviceUnusable,
)
from tests.support.waiting import eventually

HEAD = """
import sys, time, os
from services.kit.errors import Failure
from services.trainer.framing import receive_task, send
from services.trainer.messages import Failed, Progress, Ready, Unusable
out = sys.stdout.buffer
"""
READY = "send(out, Ready(device='cpu', import_seconds=0.1))\n"
TASK = "task = receive_task(sys.stdin.buffer)\nif task is None: sys.exit(0)\n"
GOOD = (
    HEAD
    + READY
    + TASK
    + "send(out, Progress(fraction=0.5, phase='fit'))\n"
    + "send(out, Failed(failure=Failure(9, 'diverged', task.evaluation)))\n"
)
KILLED = HEAD + READY + TASK + "os.kill(os.getpid(), 9)\n"
BABBLING = HEAD + READY + TASK + "out.write(b'\\0\\0\\0\\5hello'); out.flush(); time.sleep(60)\n"
SILENT = "import time\ntime.sleep(60)\n"
BROKEN = "raise SystemExit(3)\n"
UNUSABLE = HEAD + "send(out, Unusable(problem='no driver'))\n"
WRONG = HEAD + "send(out, Progress(fraction=0.5, phase='fit'))\n"


def task(folder: Path) -> EvaluateTask:
    where = str(folder)
    return EvaluateTask(
        evaluation="models/m/evaluations/e",
        dataset="datasets/d",
        bundle_directory=where,
        directory=where,
        output_directory=where,
    )


@asynccontextmanager
async def pool(
    script: str, start_seconds: float = 30.0, hang_seconds: float = HANG_SECONDS
) -> AsyncGenerator[ChildPool]:
    made = ChildPool(1, (sys.executable, "-c", script), start_seconds, hang_seconds=hang_seconds)
    try:
        yield made
    finally:
        await made.close()


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def first_message(child: Child, folder: Path) -> Message:
    async with aclosing(child.run(task(folder))) as messages:
        return await anext(messages)


async def spare_of(made: ChildPool) -> Child:
    assert made._spare is not None
    return await asyncio.shield(made._spare)


async def test_a_child_takes_a_task_and_responds(tmp_path: Path) -> None:
    async with pool(GOOD) as made:
        child = await made.take()
        async with aclosing(child.run(task(tmp_path))) as messages:
            first = await anext(messages)
            last = await anext(messages)
        assert isinstance(first, Progress)
        assert isinstance(last, Failed)
        assert last.failure.message == "models/m/evaluations/e"
        await child.end()
        assert not lives(child.pid)


async def test_the_spare_is_the_child_that_is_taken(tmp_path: Path) -> None:
    async with pool(GOOD) as made:
        made.prepare()
        spare = await spare_of(made)
        assert await made.take() is spare
        made.prepare(60.0)  # not started yet
        await spare.end()
        another = await asyncio.wait_for(made.take(), 30)  # but taking it does not wait that long
        assert another.pid != spare.pid
        await another.end()


async def test_a_spare_that_died_is_replaced() -> None:
    async with pool(GOOD) as made:
        made.prepare()
        spare = await spare_of(made)
        await spare.end()
        child = await made.take()
        assert child.pid != spare.pid
        assert child.alive
        await child.end()


async def test_a_cancelled_taker_leaves_the_spare_to_the_next() -> None:
    async with pool(GOOD) as made:
        made.prepare()
        taker = asyncio.create_task(made.take())
        await asyncio.sleep(0)
        taker.cancel()
        await asyncio.gather(taker, return_exceptions=True)
        spare = await spare_of(made)
        assert await made.take() is spare
        await spare.end()


async def test_closing_leaves_no_process_behind(tmp_path: Path) -> None:
    async with pool(GOOD) as made:
        made.prepare()
        spare = await spare_of(made)
    assert not lives(spare.pid)
    pid = tmp_path / "pid"
    says_its_pid = f"import os, pathlib\npathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n"
    async with pool(says_its_pid + SILENT) as made:
        made.prepare()
        await eventually(lambda: pid.exists() and bool(pid.read_text()))
    assert not lives(int(pid.read_text()))
    async with pool(BROKEN) as made:
        made.prepare()
        assert made._spare is not None
        await asyncio.wait([made._spare])


@pytest.mark.parametrize(("script", "status"), [(KILLED, "-9"), (BABBLING, "-9"), (HEAD + READY + TASK, "0")])
async def test_a_child_that_ends_or_sends_an_invalid_message_has_died(script: str, status: str, tmp_path: Path) -> None:
    async with pool(script) as made:
        child = await made.take()
        with pytest.raises(ChildDied, match=f"status {status}"):
            async with aclosing(child.run(task(tmp_path))) as messages:
                await anext(messages)
        assert not lives(child.pid)


@pytest.mark.parametrize("script", [BROKEN, WRONG, SILENT])
async def test_a_process_that_does_not_send_ready_first_is_not_a_child(script: str) -> None:
    async with pool(script, start_seconds=0.1 if script is SILENT else 30.0) as made:
        for _ in range(2):
            with pytest.raises(ChildNotStarted):
                await made.take()
            assert made.failed


async def test_a_process_that_the_system_cannot_make_is_not_a_child(tmp_path: Path) -> None:
    made = ChildPool(1, (str(tmp_path / "no-such-python"),))
    for _ in range(2):
        with pytest.raises(ChildNotStarted, match="No such file"):
            await made.take()
    await made.close()


def works_from_the_third_start(folder: Path) -> str:
    """A script whose first two processes do not start."""
    count = f"import pathlib\nlog = pathlib.Path({str(folder / 'starts')!r})\n"
    return count + "log.open('a').write('x')\nif len(log.read_text()) < 3: raise SystemExit(3)\n" + GOOD


async def test_a_worker_waits_until_a_child_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "RESTART_SECONDS", 0.01)
    telemetry, stop = MemoryTelemetry(), asyncio.Event()
    async with pool(works_from_the_third_start(tmp_path)) as made:
        with pytest.raises(ChildNotStarted):
            await process.until_ready(made, telemetry, stop, patient=False)
        assert telemetry.value(metrics.WORKER_READY) == 0
        await process.until_ready(made, telemetry, stop, patient=True)
        assert not made.failed
        assert telemetry.value(metrics.WORKER_READY) == 1
    assert [line.message for line in caplog.records].count("child_not_started") == 1


async def test_a_stop_ends_the_wait_for_a_child_that_starts() -> None:
    stop = asyncio.Event()
    async with pool(BROKEN) as made:
        waiting = asyncio.create_task(process.until_ready(made, MemoryTelemetry(), stop, patient=True))
        await eventually(lambda: made.failed)
        stop.set()
        await asyncio.wait_for(waiting, 5)


async def test_everything_that_a_child_prints_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    printed = "os.write(2, b'UserWarning: Truncated File Read\\n')\n"
    crash = "import faulthandler\nfaulthandler.enable()\nfaulthandler._sigsegv()\n"
    async with pool(HEAD + READY + TASK + printed + crash) as made:
        child = await made.take()
        with pytest.raises(ChildDied, match="status -11"):
            async with aclosing(child.run(task(tmp_path))) as messages:
                await anext(messages)
    words = "\n".join(vars(one)["fields"]["text"] for one in caplog.records if one.message == "child_printed")
    assert words.startswith("UserWarning: Truncated File Read")
    assert "Segmentation fault" in words


async def test_a_childs_death_is_noticed_while_another_process_holds_its_pipe_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds in ("SILENT_SECONDS", "LAST_OUTPUT_SECONDS"):
        monkeypatch.setattr(child_pool, seconds, 0.05)
    fork = "import os, signal, time\nif os.fork() == 0:\n    time.sleep(20)\n    os._exit(0)\n"
    script = HEAD + READY + TASK + fork + "os.kill(os.getpid(), signal.SIGKILL)\n"
    async with pool(script) as made:
        child = await made.take()
        async with asyncio.timeout(10):
            with pytest.raises(ChildDied, match="status -9"):
                async with aclosing(child.run(task(tmp_path))) as messages:
                    await anext(messages)


async def test_waiting_for_the_spare_does_not_take_it() -> None:
    async with pool(GOOD) as made:
        spare = await made.ready(asyncio.Event())
        assert spare is not None
        assert await made.take() is spare
        await spare.end()


async def test_a_stop_ends_the_wait_for_the_spare() -> None:
    async with pool(SILENT) as made:
        stop = asyncio.Event()
        waiting = asyncio.create_task(made.ready(stop))
        await asyncio.sleep(0)
        stop.set()
        assert await asyncio.wait_for(waiting, 5) is None


async def test_an_unusable_device_is_reported_permanently() -> None:
    async with pool(UNUSABLE) as made:
        with pytest.raises(DeviceUnusable, match="no driver"):
            await made.ready(asyncio.Event())
        for _ in range(2):
            with pytest.raises(DeviceUnusable, match="no driver"):
                await made.take()
        assert str(made.unusable) == "no driver"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_pool, "SILENT_SECONDS", 0.05)


HANGING = (
    "import faulthandler; faulthandler.enable()\n" + HEAD + READY + TASK + "def stuck(): time.sleep(60)\nstuck()\n"
)
BUSY = HEAD + READY + TASK + "for n in range(9): send(out, Progress(fraction=n / 9, phase='fit')); time.sleep(0.2)\n"


async def test_a_child_that_hangs_is_ended_and_prints_where(
    impatient: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with pool(HANGING, hang_seconds=0.2) as made:
        child = await made.take()
        async with asyncio.timeout(20):
            with pytest.raises(ChildHung, match=r"sent nothing for 0\.2 s"):
                await first_message(child, tmp_path)
        assert not lives(child.pid)
    words = "\n".join(vars(one)["fields"]["text"] for one in caplog.records if one.message == "child_printed")
    assert "in stuck" in words


async def test_a_child_that_reports_does_not_hang_however_long_it_works(impatient: None, tmp_path: Path) -> None:
    async with pool(BUSY, hang_seconds=1.0) as made:
        child = await made.take()
        async with aclosing(child.run(task(tmp_path))) as messages:
            heard = [await anext(messages) for _ in range(9)]
        assert len(heard) == 9
        await child.end()


async def test_a_child_that_no_signal_ends_makes_the_device_unusable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with pool(GOOD) as made:
        child = await made.take()
        with monkeypatch.context() as patched:
            patched.setattr(child_pool, "KILL_SECONDS", 0.05)
            patched.setattr(child_pool.os, "kill", lambda *_: None)
            with pytest.raises(DeviceUnusable, match=f"process {child.pid} cannot be killed"):
                await child.end()
        await child.end()


async def test_a_gpu_that_is_lost_while_the_worker_runs_is_not_replaced_by_the_cpu(tmp_path: Path) -> None:
    flag = tmp_path / "lost"
    script = (
        HEAD
        + f"import pathlib\nflag = pathlib.Path({str(flag)!r})\n"
        + "device = 'cpu' if flag.exists() else 'cuda'\nflag.touch()\n"
        + "send(out, Ready(device=device, import_seconds=0.1, problem='torch finds 0 devices'))\n"
        + TASK
    )
    async with pool(script) as made:
        first = await made.take()
        assert first.ready.device == "cuda"
        await first.end()
        with pytest.raises(DeviceUnusable, match="cuda was used until now, but torch finds 0 devices"):
            await made.take()
        assert made.unusable is not None
