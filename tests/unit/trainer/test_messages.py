"""The pipe between a worker and its child."""

import asyncio
import io
import struct
import subprocess
import sys
from datetime import timedelta

import numpy as np
import pytest

from services.kit.errors import Diverged
from services.trainer.framing import MAX_FRAME_BYTES, frame, receive_message_async, receive_task, send
from services.trainer.messages import (
    EvaluateTask,
    EvaluationResult,
    Failed,
    Message,
    Progress,
    Ready,
    Task,
    TrainTask,
    Unusable,
    local_name,
)
from services.trainer.performance import Interval, Performance, Source, TagPerformance
from services.trainer.planner.comparison import paired_gain
from services.trainer.predictions import Predictions, read_predictions, write_predictions
from services.trainer.recipe import Recipe
from tests.unit.trainer.pipe import receive_message

RECIPE = Recipe(name="r", rung=0, backbones=("mobilenet_v2",))
TASKS: tuple[Task, ...] = (
    TrainTask(
        trial="t",
        dataset="datasets/d",
        directory="/d",
        recipe=RECIPE,
        allowance=timedelta(seconds=3.5),
        output_directory="/o",
        cache_directory="/c",
    ),
    EvaluateTask(evaluation="e", dataset="datasets/d", bundle_directory="/b", directory="/d", output_directory="/o"),
)
PERFORMANCE = Performance(
    source=Source.TEST_DATASET,
    image_count=3,
    accuracy_top1=0.5,
    intervals={"accuracy_top1": Interval(0.1, 0.9)},
    tag_performance={"cat": TagPerformance(support=3)},
)
MESSAGES: tuple[Message, ...] = (
    Ready(device="cpu", import_seconds=1.0),
    Unusable(problem="no driver"),
    Progress(fraction=0.5, phase="train"),
    EvaluationResult(performance=PERFORMANCE, used=timedelta(seconds=1), predictions_path="/p"),
    Failed(failure=Diverged(trial="t", loss="nan", step=1, learning_rate=1, retries=3).failure()),
)


class _Drip(io.BytesIO):
    """Returns one byte at a time, as a pipe may."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(1, size or 0))


@pytest.mark.parametrize("task", TASKS)
def test_a_task_arrives_as_it_was_sent(task):
    stream = io.BytesIO()
    send(stream, task)
    assert receive_task(_Drip(stream.getvalue())) == task


def test_messages_arrive_in_order_and_the_end_of_the_stream_is_none():
    stream = io.BytesIO(b"".join(frame(message) for message in MESSAGES))
    assert [receive_message(stream) for _ in MESSAGES] == list(MESSAGES)
    assert receive_message(stream) is None


async def test_a_worker_reads_the_same_messages_from_an_asyncio_stream():
    reader = asyncio.StreamReader()
    reader.feed_data(b"".join(frame(message) for message in MESSAGES))
    reader.feed_eof()
    assert [await receive_message_async(reader) for _ in MESSAGES] == list(MESSAGES)
    with pytest.raises(EOFError):
        await receive_message_async(reader)


def test_a_stream_that_ends_inside_a_frame_is_an_error():
    whole = frame(TASKS[0])
    for end in (2, len(whole) - 1):
        with pytest.raises(EOFError):
            receive_task(io.BytesIO(whole[:end]))


def test_a_frame_that_claims_to_be_huge_is_refused_before_it_is_read():
    with pytest.raises(ValueError, match="is more than"):
        receive_message(io.BytesIO(struct.pack("!I", MAX_FRAME_BYTES + 1)))


def test_an_invalid_message_is_a_value_error():
    with pytest.raises(ValueError, match="type"):
        receive_message(io.BytesIO(frame(TASKS[0])))


def test_a_pack_is_named_by_the_last_part_of_its_key():
    assert local_name("datasets/d/1/shards/00000.tar") == "00000.tar"


def test_the_messages_import_neither_torch_nor_grpc_nor_asyncio():
    code = "import sys, services.trainer.framing; print({'torch', 'grpc', 'nats'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def _predictions(ids: tuple[int, ...], correct: tuple[bool, ...]) -> Predictions:
    zeros = (0,) * len(ids)
    return Predictions(
        categories=("a", "b"),
        image_ids=ids,
        labels=zeros,
        predicted=tuple(0 if right else 1 for right in correct),
        correct=correct,
        log_losses=tuple(0.5 if right else 1.5 for right in correct),
    )


def test_predictions_are_read_back_as_they_were_written(tmp_path):
    predictions = _predictions((1, 2), (True, False))
    write_predictions(tmp_path / "p", predictions)
    assert read_predictions((tmp_path / "p").read_bytes()) == predictions


def test_a_paired_gain_counts_only_common_images():
    old = _predictions((1, 2, 3, 4), (True, False, False, True))
    new = _predictions((2, 3, 4, 9), (True, True, True, False))
    gain, error, count = paired_gain(old, new)
    assert (gain, count) == (pytest.approx(2 / 3), 3)  # image 4 was right before, the other two have become right
    assert error == pytest.approx(np.std([1, 1, 0], ddof=1) / 3**0.5)
    assert paired_gain(old, _predictions((1,), (False,))) == (0.0, float("inf"), 1)
