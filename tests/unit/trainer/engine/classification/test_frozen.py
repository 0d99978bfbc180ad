"""Features from graphs are those of torch, and a training says which of the two it read."""

from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from services.trainer.engine.classification.frozen import ByGraph, ByTorch, frozen
from services.trainer.engine.run import run
from services.trainer.feature_blocks import FeatureUse
from services.trainer.messages import EvaluateTask, EvaluationResult, Failed, Result
from services.trainer.predictions import Predictions, read_predictions
from services.vision import graph_models
from services.vision.backbones import Network, build
from services.vision.memory import BatchLimit
from tests.unit.trainer.engine.shapes import linear_recipe, task_for, write_snapshot

NAME = "mobilenet_v2"


@pytest.fixture(scope="module")
def network() -> Network:
    """Random, but with normalisations that do something."""
    found, random = build(NAME, 3, seed=0), torch.Generator().manual_seed(1)
    for key, tensor in found.state_dict().items():
        if key.endswith((".running_var", ".running_mean")):
            tensor.copy_(0.1 + 0.2 * torch.rand(tensor.shape, generator=random))
    return found


@pytest.mark.parametrize("middle", [True, False])
def test_a_graph_gives_the_features_of_torch(network: Network, tmp_path: Path, graphs: Path, *, middle: bool) -> None:
    task = task_for(write_snapshot(tmp_path / "snapshot"), linear_recipe(), threads=2)
    images = torch.randn(5, 3, 96, 64, generator=torch.Generator().manual_seed(2))
    images[3] = torch.nan  # an unreadable image
    was_training = network.training
    by_torch = frozen(network, task, BatchLimit(16))
    by_graph = frozen(network, msgspec.structs.replace(task, graphs_directory=str(graphs)), BatchLimit(16))
    assert isinstance(by_torch, ByTorch)
    assert isinstance(by_graph, ByGraph)
    assert network.training == was_training
    expected, found = (each.features(images, middle=middle) for each in (by_torch, by_graph))
    assert found.dtype == np.float32
    assert np.isnan(found[3]).all()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "device"), [("mobilenet_v3_large", "cpu"), (NAME, "cuda")])
def test_torch_runs_what_has_no_graph_and_what_is_not_on_a_cpu(
    name: str, device: str, tmp_path: Path, graphs: Path
) -> None:
    snapshot = write_snapshot(tmp_path / "snapshot")
    task = task_for(snapshot, linear_recipe(), device=device, graphs_directory=str(graphs))
    assert isinstance(frozen(build(name, 3, seed=0), task, BatchLimit(16)), ByTorch)


def test_a_graph_that_computes_something_else_is_left_to_torch(
    network: Network, tmp_path: Path, graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_for(write_snapshot(tmp_path / "snapshot"), linear_recipe(), graphs_directory=str(graphs))
    embed = Network.embed_stages
    monkeypatch.setattr(Network, "embed_stages", lambda *given: [2 * part for part in embed(*given)])
    assert isinstance(frozen(network, task, BatchLimit(16)), ByTorch)


def test_a_training_by_graph_is_as_good_and_says_so(tmp_path: Path, graphs: Path) -> None:
    snapshot, recipe = write_snapshot(tmp_path / "torch" / "snapshot"), linear_recipe(backbones=(NAME,))
    by_torch = run(task_for(snapshot, recipe), lambda _: None)
    copy = write_snapshot(tmp_path / "graph" / "snapshot")
    task = task_for(copy, recipe, graphs_directory=str(graphs), threads=2)
    by_graph = run(task, lambda _: None)
    assert isinstance(by_torch, Result)
    assert isinstance(by_graph, Result)
    assert by_torch.features == FeatureUse(reused=0, computed=1, saved=timedelta())
    assert by_graph.features == FeatureUse(reused=0, computed=1, saved=timedelta(), by_graph=True)
    assert by_graph.selection_log_loss == pytest.approx(by_torch.selection_log_loss, rel=1e-3)
    again = run(task, lambda _: None)
    assert isinstance(again, Result)
    assert again.features is not None
    assert (again.features.reused, again.features.by_graph) == (1, True)


def test_a_pass_by_graph_that_does_not_fit_is_out_of_memory(
    tmp_path: Path, graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*_: object, **__: object) -> None:
        raise RuntimeException("Non-zero status code: Failed to allocate memory for requested buffer of size 536870912")

    recipe = linear_recipe(backbones=(NAME,))
    task = task_for(write_snapshot(tmp_path / "snapshot"), recipe, graphs_directory=str(graphs))
    monkeypatch.setattr(ByGraph, "features", run_out)
    failed = run(task, lambda _: None)
    assert isinstance(failed, Failed)
    assert failed.failure.reason == "outOfMemory"


def test_an_evaluation_by_graphs_measures_what_torch_does(
    tmp_path: Path, graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, opened = linear_recipe(backbones=(NAME,)), list[Path]()
    trained = run(task_for(write_snapshot(tmp_path / "train"), recipe, graphs_directory=str(graphs)), lambda _: None)
    assert isinstance(trained, Result)
    load = graph_models.load
    monkeypatch.setattr(graph_models, "load", lambda directory: opened.append(directory) or load(directory))
    found: list[EvaluationResult] = []
    for has_graphs in (True, False):
        monkeypatch.setattr(graph_models, "has_graphs", lambda _, answer=has_graphs: answer)
        task = EvaluateTask(
            evaluation="models/m/evaluations/e",
            dataset="datasets/t",
            bundle_directory=trained.bundle_directory,
            directory=str(write_snapshot(tmp_path / f"test-{has_graphs}", per_category=5, seed=9)),
            output_directory=str(tmp_path / f"out-{has_graphs}"),
            threads=2,
        )
        measured = run(task, lambda _: None)
        assert isinstance(measured, EvaluationResult)
        found.append(measured)
    assert opened == [Path(trained.bundle_directory)]
    one, other = (read_predictions(Path(each.predictions_path).read_bytes()) for each in found)
    assert isinstance(one, Predictions)
    assert isinstance(other, Predictions)
    assert found[0].performance.accuracy_top1 == found[1].performance.accuracy_top1
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
