"""Single tasks of the engine, without services: a recipe trained on a snapshot, a bundle measured on another."""

import os
from datetime import timedelta
from pathlib import Path

from services.trainer.engine.run import run
from services.trainer.messages import EvaluateTask, EvaluationResult, Result, TrainTask
from services.trainer.recipe import Recipe, Split
from services.trainer.settings import GRAPHS

ALLOWANCE = timedelta(days=1)


def trained(
    recipe: Recipe,
    snapshot: Path,
    out: Path,
    cache: Path,
    weights: Path,
    seed: int = 0,
    base: str | None = None,
    *,
    by_graph: bool = True,
    threads: int = 1,
) -> Result:
    """The recipe's result, with its files in `out`; `base` is the bundle of the model that it continues."""
    task = TrainTask(
        trial=recipe.name,
        dataset="bench",
        directory=str(snapshot),
        recipe=recipe,
        allowance=ALLOWANCE,
        output_directory=str(out),
        cache_directory=str(cache),
        graphs_directory=str(GRAPHS) if by_graph else "",
        weights_directory=str(weights),
        base_directory=base,
        split=Split(seed=seed),
        seed=seed,
        threads=threads,
    )
    result = run(task, lambda _: None)
    assert isinstance(result, Result), result
    return result


def tested(result: Result, snapshot: Path, out: Path) -> EvaluationResult:
    """What the trained bundle reaches on the snapshot."""
    task = EvaluateTask(
        evaluation="test",
        dataset="bench",
        bundle_directory=result.bundle_directory,
        directory=str(snapshot),
        output_directory=str(out),
        threads=os.cpu_count() or 1,
    )
    found = run(task, lambda _: None)
    assert isinstance(found, EvaluationResult), found
    return found
