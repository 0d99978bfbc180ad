"""Category names as a start: what they gain where they tell something, and that they harm nowhere else."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch

from services.kit.digests import file_digest
from services.kit.errors import InvalidRequest
from services.trainer.engine.classification import logistic
from services.trainer.engine.classification.heads import LinearHead, fit_head
from services.trainer.engine.classification.names import Names, Texts, fit_named_head, spoken
from services.trainer.engine.data import Floats, Indices
from services.trainer.engine.run import evaluate, train
from services.trainer.engine.session import Meter, Session
from services.trainer.engine.split import divide
from services.trainer.messages import EvaluateTask, Result
from services.trainer.name_use import NameEffect, NameUse
from services.trainer.recipe import Recipe, Split
from services.vision.packs import description_of, read_pack, write_pack
from services.vision.text_tower import TOKENIZER, read_text
from services.weights import app
from services.weights.shelves import FolderShelf
from tests.support.contrastive import COLOURS, NETWORK, in_catalogue, pretrained, write_colours
from tests.unit.trainer.engine.shapes import task_for

CATEGORIES, WIDTH = 6, 48


def world(seed: int, per_category: int) -> tuple[Floats, Indices, Floats]:
    """(features, labels, directions of the categories), the features mostly noise that all categories share."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(CATEGORIES, WIDTH))
    shared = random.normal(size=(12, WIDTH))
    drawn = np.random.default_rng((seed, per_category))
    labels = np.arange(per_category * CATEGORIES) % CATEGORIES
    noise = 0.8 * drawn.normal(size=(len(labels), 12)) @ shared + 0.5 * drawn.normal(size=(len(labels), WIDTH))
    features = random.normal(size=WIDTH) + centres[labels] + noise
    directions = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    return features.astype(np.float32), labels, directions.astype(np.float32)


def texts(directions: Floats, scale: float = 30.0) -> Texts:
    return Texts(np.eye(WIDTH, dtype=np.float32), directions, scale)


def right(head: LinearHead, seed: int) -> float:
    """Accuracy on images that no head has seen."""
    features, labels, _ = world(seed, 100)
    return float((head.logits([features]).argmax(axis=1) == labels).mean())


def fitted(seed: int, per_category: int, directions: Floats | None = None) -> tuple[LinearHead, LinearHead, NameUse]:
    """(without names, with them, what came of them)"""
    features, labels, told = world(seed, per_category)
    partition = divide(labels, Split(seed=seed))
    names = Names((texts(told if directions is None else directions),), "net")
    plain = fit_head([[features]], labels, partition.fold, partition.folds, CATEGORIES)
    named, use = fit_named_head([[features]], labels, partition.fold, partition.folds, CATEGORIES, (), names)
    return plain, named, use


def test_with_two_images_a_category_names_raise_accuracy() -> None:
    gains: list[float] = []
    for seed in range(3):
        plain, named, use = fitted(seed, 2)
        assert (use.effect is not NameEffect.NONE, use.network) == (True, "net")
        gains.append(right(named, seed) - right(plain, seed))
    assert np.mean(gains) > 0.15


def test_the_choice_among_heads_flatters_no_prediction() -> None:
    """Out of fold, heads predict labels without meaning no better than chance, whatever is chosen."""
    found: list[float] = []
    for seed in range(6):
        features, labels, directions = world(seed, 3)
        noise = np.random.default_rng(seed).permutation(labels)
        partition = divide(noise, Split(seed=seed))
        names = Names((texts(directions),), "net")
        head, _ = fit_named_head([[features]], noise, partition.fold, partition.folds, CATEGORIES, (), names)
        found.append(float((head.out_of_fold.argmax(axis=1) == noise).mean()))
    assert np.mean(found) < 1 / CATEGORIES + 0.08


def test_names_that_belong_to_other_categories_change_nothing() -> None:
    for seed in range(3):
        plain, named, use = fitted(seed, 2, np.roll(world(seed, 2)[2], 1, axis=0))
        assert use == NameUse(effect=NameEffect.NONE, network="net")
        np.testing.assert_array_equal(named.weight, plain.weight)


def test_names_without_meaning_change_nothing() -> None:
    """What a text tower says of codes is nearly the same for all of them."""
    random = np.random.default_rng(0)
    same = random.normal(size=WIDTH) + 0.1 * random.normal(size=(CATEGORIES, WIDTH))
    codes = (same / np.linalg.norm(same, axis=1, keepdims=True)).astype(np.float32)
    for seed in range(3):
        plain, named, use = fitted(seed, 3, codes)
        assert use.effect is NameEffect.NONE
        np.testing.assert_array_equal(named.weight, plain.weight)


def test_the_penalty_draws_to_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels, directions = world(0, 5)
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    offset = rows @ (30 * directions).T
    strong = {}
    for penalty in (1e-4, 1e4):
        monkeypatch.setattr(logistic, "PENALTY", penalty)
        strong[penalty] = logistic.solve(rows, labels, CATEGORIES, offset)[:-1]
    assert np.abs(strong[1e4]).max() < 1e-3
    assert np.abs(strong[1e-4]).max() > 1
    monkeypatch.setattr(logistic, "PENALTY", 1e-2)
    change = logistic.solve(rows, labels, CATEGORIES, offset)
    wanted = torch.tensor(30 * directions.T + change[:-1], requires_grad=True)
    bias = torch.tensor(change[-1])
    loss = torch.nn.functional.cross_entropy(torch.tensor(rows) @ wanted + bias, torch.tensor(labels))
    (loss + 0.5e-2 * (wanted - torch.tensor(30 * directions.T)).square().sum()).backward()
    assert wanted.grad is not None
    assert float(wanted.grad.abs().max()) < 1e-4, "the minimum of the cross-entropy with a penalty around the start"


def test_the_start_reaches_the_blocks_with_texts_alone_and_is_their_mean() -> None:
    features, _, directions = world(0, 3)
    found = texts(directions)
    middle = (False, True, False, False)
    names = Names((found, None, found), "net")
    blocks = [features, features[:, :7], features[:, :5], 3 * features]
    start = names.start(blocks, middle)
    assert start is not None
    assert not start[:, WIDTH : WIDTH + 12].any()
    np.testing.assert_allclose(start[:, :WIDTH] * 2, found.weights(features), rtol=1e-5)
    np.testing.assert_allclose(start[:, -WIDTH:], start[:, :WIDTH], rtol=1e-5)
    assert Names((None, None), "").start(blocks[:2], ()) is None


def test_zero_shot_weights_decide_as_cosines_do() -> None:
    random = np.random.default_rng(0)
    projection = random.normal(size=(16, WIDTH)).astype(np.float32)
    embedded = random.normal(size=(CATEGORIES, 16)).astype(np.float32)
    embedded /= np.linalg.norm(embedded, axis=1, keepdims=True)
    features = random.normal(size=(200, WIDTH)).astype(np.float32)
    given = Texts(projection, embedded, 30.0)
    projected = features @ projection.T
    cosines = projected / np.linalg.norm(projected, axis=1, keepdims=True) @ embedded.T
    logits = LinearHead.of(given.weights(features)).logits([features])
    np.testing.assert_array_equal(logits.argmax(axis=1), cosines.argmax(axis=1))
    assert np.corrcoef(logits.ravel(), 30 * cosines.ravel())[0, 1] > 0.95
    assert logits.std() == pytest.approx(30 * cosines.std(), rel=0.1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("granny_smith", "granny smith"),
        ("GrannySmith", "Granny Smith"),
        ("Packages/Milk-Arla", "Packages Milk Arla"),
        ("crème brûlée", "crème brûlée"),
        ("n01440764", "n01440764"),
        ("リンゴ", "リンゴ"),
        ("__", "__"),
    ],
)
def test_names_are_said_as_in_a_sentence(name: str, said: str) -> None:
    assert spoken(name) == said


@pytest.fixture(autouse=True)
def _catalogue() -> Iterator[None]:
    with in_catalogue():
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pack of a network that knows colours and their names."""
    folder = tmp_path_factory.mktemp("packs")
    with in_catalogue():
        asyncio.run(app.add(FolderShelf(folder), pretrained(folder / "checkpoint"), NETWORK.name))
    return folder


def trained(folder: Path, weights: Path, categories: tuple[str, ...], **changes: object) -> tuple[Result, float]:
    """(result of a training on two images a colour, its accuracy on others); the bundle is read without the pack."""
    folder.mkdir()
    recipe = Recipe(name="linear", rung=0, backbones=(NETWORK.name,), **changes)  # pyright: ignore[reportArgumentType] - any of its fields
    task = task_for(write_colours(folder / "train", 2, categories), recipe, weights_directory=str(weights))
    result = train(task, session())
    test = write_colours(folder / "test", 15, categories, seed=9)
    measured = evaluate(
        EvaluateTask(
            evaluation="models/m/evaluations/e",
            dataset="datasets/t",
            bundle_directory=result.bundle_directory,
            directory=str(test),
            output_directory=str(folder),
        ),
        session(),
    )
    assert measured.performance.accuracy_top1 is not None
    return result, measured.performance.accuracy_top1


def session() -> Session:
    return Session(Meter(timedelta(minutes=10)), lambda _: None)


def test_a_training_starts_from_names_if_they_help_and_the_bundle_needs_no_text_tower(
    weights: Path, tmp_path: Path
) -> None:
    named, with_names = trained(tmp_path / "named", weights, tuple(COLOURS))
    plain, without = trained(tmp_path / "plain", weights, tuple(COLOURS), names=False)
    coded, with_codes = trained(tmp_path / "coded", weights, tuple(f"class_{number}" for number in range(6)))
    assert named.names is not None
    assert named.names.effect is not NameEffect.NONE
    assert named.names.network == NETWORK.name
    assert with_names > without + 0.05
    assert plain.names == NameUse()
    assert coded.names == NameUse(effect=NameEffect.NONE, network=NETWORK.name)
    assert with_codes == without
    assert named.features is not None
    assert not any("text" in warning for warning in named.warnings)
    keys = safetensors.torch.load_file(Path(named.bundle_directory) / "weights.safetensors").keys()
    assert not any(key.startswith("text.") for key in keys)


def test_names_that_are_too_long_are_not_read_and_the_model_says_so(weights: Path, tmp_path: Path) -> None:
    categories = ("x" * 60, *list(COLOURS)[1:])
    result, _ = trained(tmp_path / "long", weights, categories)
    assert result.names == NameUse()
    (warning,) = (each for each in result.warnings if "category names" in each)
    assert "tokens, and at most 40 are read by test_vit.tiny. Shorten the name." in warning


def test_a_broken_text_tower_fails_the_training_and_names_the_file(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / NETWORK.file_name
    state = safetensors.torch.load_file(weights / NETWORK.file_name)
    del state["text.ln_final.bias"]
    safetensors.torch.save_file(state, path, {TOKENIZER: read_text(weights / NETWORK.file_name)[1]})
    pack = read_pack(weights / NETWORK.file_name)
    assert pack is not None
    pack = msgspec.structs.replace(pack, sha256=file_digest(path))
    description_of(path).write_bytes(write_pack(pack))
    with pytest.raises(
        InvalidRequest, match=r"test_vit\.tiny\.safetensors: its text tower is broken: .*ln_final\.bias"
    ):
        trained(tmp_path / "broken", tmp_path, tuple(COLOURS))
