"""Hostile input in short: each target of `make fuzz`, some executions of one seed."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.fuzz import TARGETS, run
from tests.fuzz.mutations import mutated, mutated_json
from tests.fuzz.target import Broken

EXECUTIONS = {
    "bundles": 12,
    "weights": 12,
    "requests": 400,
    "gateway": 150,
    "images": 400,
    "imports": 300,
    "coco_files": 1_000,
}
MANY = 2_000  # of the targets that take microseconds


@pytest.mark.parametrize("name", TARGETS)
async def test_hostile_input_is_refused_by_name(name: str, tmp_path: Path) -> None:
    result = await run(name, tmp_path, seed=1, executions=EXECUTIONS.get(name, MANY))
    assert len(result.outcomes) > 1, "some input is refused, and some is not or for another reason"


async def test_an_execution_that_breaks_a_promise_is_reported_with_all_that_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fuzz.names.check_key", lambda key: f"../{key}")
    with pytest.raises(Broken, match=r"blob_keys, seed 7, execution (\d+): AssertionError") as broken:
        await run("blob_keys", tmp_path, seed=7, executions=10)
    number = int(str(broken.value).split("execution ")[1].split(":")[0])
    with pytest.raises(Broken, match=f"execution {number}: AssertionError"):
        await run("blob_keys", tmp_path, seed=7, executions=1, first=number)


def test_the_same_random_makes_the_same_input() -> None:
    data, content = bytes(range(256)), {"a": [1, 2.5, "x"], "b": None}
    made = [
        (mutated(data, random), mutated_json(content, random)) for random in (Random("s"), Random("s"), Random("t"))
    ]
    assert made[0] == made[1] != made[2]
