"""A training by several processes: the same result as by one, and it ends whole."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import msgspec
import pytest
import safetensors.torch
import torch

from services.trainer.engine.launch import processes_wanted
from services.trainer.engine.loop import fit
from services.trainer.framing import send
from services.trainer.messages import Checkpoint, Failed, Message, Progress, Ready, Result, TrainTask
from tests.unit.trainer.engine.scenes import detector_recipe, write_scenes
from tests.unit.trainer.engine.shapes import linear_recipe, task_for, tuning_recipe, write_snapshot
from tests.unit.trainer.pipe import receive_message

pytestmark = pytest.mark.timeout(600)  # processes import torch, in one test half a dozen times

# Ten steps from "pretrained" weights: what is measured would give every run another schedule.
CHILD = """
import sys
import msgspec
from services.trainer.engine import launch, pretrained
from services.trainer.engine.detection import network as detection
from services.trainer.engine.loop import fit
from services.vision.backbones import build
from services.vision.card import WeightsSource
from services.vision.detector_builder import build_detector
from services.vision.weights import PretrainedWeights
launch.MODULE = "tests_group_child"
WEIGHTS = PretrainedWeights({}, WeightsSource.FOLDER, "0" * 64, "")
pretrained.pretrained_network = lambda name, count, _, *, seed: (build(name, count, seed=seed), WEIGHTS)
detection.pretrained_detector = lambda name, count, _, *, seed: (build_detector(name, count, seed=seed), WEIGHTS)
planned, step = fit._planned, fit.step
def noted(training, *rest):
    loss = step(training, *rest)
    with open(training.task.output_directory + "/losses", "a") as file:
        file.write(f"{loss}\\n")
    return loss
fit.step = noted
fit._planned = lambda training: msgspec.structs.replace(planned(training), total_steps=10, validate_every=1)
from services.trainer.engine import __main__ as child
if __name__ == "__main__":
    sys.exit(child.main())
"""


class Child:
    """A child of `processes`, and what it has said."""

    def __init__(self, folder: Path, processes: int) -> None:
        (folder / "tests_group_child.py").write_text(CHILD)
        path = os.pathsep.join([str(folder), *sys.path])
        command = [sys.executable, "-m", "tests_group_child", "cpu", str(processes)]
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.answers, self.tasks = cast(BinaryIO, self.process.stdout), cast(BinaryIO, self.process.stdin)
        self.said: list[Message] = []

    def hear(self, until: Callable[[Message], bool]) -> Message | None:
        """The first message of which `until` is true; None if it ends without one."""
        while (message := receive_message(self.answers)) is not None:
            self.said.append(message)
            if until(message):
                return message
        return None

    def train(self, task: TrainTask) -> Result:
        assert isinstance(self.hear(lambda _: True), Ready)
        send(self.tasks, task)
        last = self.hear(lambda message: isinstance(message, Result | Failed))
        assert isinstance(last, Result), last
        assert self.process.wait(60) == 0
        return last


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[int], Child]]:
    """Starts a child of so many processes."""
    children: list[Child] = []

    def started(processes: int) -> Child:
        children.append(Child(tmp_path, processes))
        return children[-1]

    yield started
    for child in children:
        child.process.kill()
        child.process.wait()
        child.answers.close()
        child.tasks.close()


def _weights(result: Result) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(Path(result.bundle_directory) / "weights.safetensors")


def _losses(task: TrainTask) -> list[float]:
    """Of all steps, those that only measure the time included."""
    return [float(line) for line in (Path(task.output_directory) / "losses").read_text().split()]


def _assert_alike(one: Result, other: Result) -> None:
    """Adam turns rounding of the smallest gradients into steps of either sign."""
    left, right = _weights(one), _weights(other)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=1e-3, atol=2 * STEPS * RATE)
    assert one.selection_log_loss == pytest.approx(other.selection_log_loss, rel=1e-2)
    assert (one.steps, one.epochs) == (other.steps, other.epochs)


def _into(task: TrainTask, folder: Path, **changes: object) -> TrainTask:
    for name in ("out", "cache"):
        (folder / name).mkdir(parents=True)
    where = {"output_directory": str(folder / "out"), "cache_directory": str(folder / "cache")}
    return msgspec.structs.replace(task, **where, **changes)


STEPS, RATE = 10, 1e-4
SETTINGS = {"pretrained": True, "linear_head": False, "learning_rate": RATE, "average_decay": 0.5}
CLASSIFIER = tuning_recipe(batch_size=7, **SETTINGS)
DETECTOR = detector_recipe(batch_size=5, **SETTINGS)


@pytest.mark.parametrize(
    "recipe", [CLASSIFIER, pytest.param(DETECTOR, marks=pytest.mark.long)], ids=["classifier", "detector"]
)
def test_two_processes_train_what_one_does(tmp_path, start, recipe):
    write = write_scenes if recipe is DETECTOR else write_snapshot
    task = task_for(write(tmp_path / "snapshot"), recipe)
    tasks = [_into(task, tmp_path / str(count), threads=2) for count in (1, 2)]
    alone, together = (start(count).train(task) for count, task in enumerate(tasks, 1))
    assert len(_losses(tasks[0])) == STEPS + fit.PROBES
    assert _losses(tasks[1]) == pytest.approx(_losses(tasks[0]), rel=1e-4)
    _assert_alike(alone, together)


@pytest.mark.long
def test_two_processes_share_features_and_unreadable_images(tmp_path, start):
    snapshot = write_snapshot(tmp_path / "snapshot", per_category=30, broken=2)
    alone, together = (
        start(count).train(_into(task_for(snapshot, linear_recipe(pretrained=True)), tmp_path / str(count)))
        for count in (1, 2)
    )
    assert together.unreadable == alone.unreadable
    assert len(together.unreadable) == 2
    assert together.selection_log_loss == pytest.approx(alone.selection_log_loss, rel=1e-2)


@pytest.mark.long
def test_two_processes_fine_tune_from_a_linear_head(tmp_path, start):
    recipe = tuning_recipe(batch_size=7, **{**SETTINGS, "linear_head": True})
    task = task_for(write_snapshot(tmp_path / "snapshot"), recipe)
    tasks = [_into(task, tmp_path / str(count), threads=2) for count in (1, 2)]
    for count, each in enumerate(tasks, 1):
        start(count).train(each)
    assert _losses(tasks[1])[0] == pytest.approx(_losses(tasks[0])[0], rel=1e-2)


@pytest.mark.long
def test_a_checkpoint_is_continued_by_another_number_of_processes(tmp_path, start):
    task = task_for(write_snapshot(tmp_path / "snapshot"), CLASSIFIER, checkpoint_seconds=0.0)
    whole = start(1).train(_into(task, tmp_path / "whole"))
    for first, then in ((1, 2), (2, 1)):
        child = start(first)
        child.hear(lambda _: True)
        send(child.tasks, _into(task, tmp_path / f"first{first}"))
        saved = child.hear(lambda message: isinstance(message, Checkpoint))
        assert isinstance(saved, Checkpoint)
        child.process.kill()
        child.process.wait()
        resumed = start(then).train(_into(task, tmp_path / f"then{then}", checkpoint_path=saved.path))
        _assert_alike(whole, resumed)


def test_the_death_of_any_process_ends_the_group(tmp_path, start):
    task = task_for(write_snapshot(tmp_path / "snapshot"), tuning_recipe(max_epochs=10_000, pretrained=True))
    for which in (0, 1):
        child = start(2)
        child.hear(lambda _: True)
        ranks = _children_of(child.process.pid)
        assert len(ranks) == 2
        send(child.tasks, _into(task, tmp_path / str(which)))
        child.hear(lambda message: isinstance(message, Progress) and message.phase == "features")
        os.kill(ranks[which], signal.SIGKILL)
        assert child.hear(lambda message: isinstance(message, Result | Failed)) is None
        assert child.process.wait(60) != 0
        assert not [rank for rank in ranks if Path(f"/proc/{rank}").exists()]


def test_a_group_whose_worker_dies_ends(tmp_path, start):
    child = start(2)
    child.hear(lambda _: True)
    ranks = _children_of(child.process.pid)
    child.process.kill()
    child.process.wait()
    assert child.hear(lambda _: True) is None  # the pipe closes when the last process is gone
    assert len(ranks) == 2


@pytest.mark.parametrize(
    ("device", "asked", "gpus", "wanted"),
    [("cpu", 0, 8, 1), ("cpu", 2, 8, 2), ("auto", 0, 0, 1), ("auto", 0, 4, 4), ("cuda", 2, 4, 2), ("auto", 2, 0, 2)],
)
def test_there_is_a_process_for_each_gpu_unless_set_otherwise(monkeypatch, device, asked, gpus, wanted):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert processes_wanted(device, asked) == wanted


@pytest.mark.parametrize(("device", "gpus"), [("auto", 1), ("cuda", 0), ("cuda", 3)])
def test_more_processes_than_gpus_are_refused(monkeypatch, device, gpus):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ValueError, match=f"SIGHTLINE_PROCESSES is 4, .* torch finds {gpus}"):
        processes_wanted(device, 4)


def _children_of(pid: int) -> list[int]:
    """Those that run the child's module, in the order of their ranks."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and "tests_group_child" in (path / "cmdline").read_text():
                found.append(int(path.name))
        except OSError:
            continue
    return sorted(found)
