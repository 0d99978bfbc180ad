"""What recipes cost: by the catalogue's seconds on the reference device, scaled by what earlier trials took.

Every cost has a fixed part and one that grows with the images. A device's pace is the time that the growing part takes
on it divided by the table's; the fixed part takes no less on a fast device.
"""

from collections.abc import Set as AbstractSet

from msgspec.structs import replace

from services.trainer.domain import Trial
from services.trainer.feature_blocks import FeaturePass, passes_of
from services.trainer.ledger import ZERO
from services.trainer.prediction_cost import pass_seconds
from services.trainer.recipe import Depth, Recipe, is_linear
from services.trainer.work import WorkState
from services.vision.card import ModelKind, WeightsSource, input_size
from services.vision.catalogue import BACKBONES, FIRST_BACKBONE, RANDOM_START

PRETRAINED_RESOLUTION = input_size(True, BACKBONES[FIRST_BACKBONE].rule.size, ())  # if the recipe leaves it open
BY_GRAPH = 0.65  # time of a frozen network's pass by its graph, relative to torch's
TRAIN_RATIO = 3.5  # time of a training step relative to a forward pass, per image
MAPS_RATIO = 0.7  # of a step that trains the last stages on stored maps; of storing a view: 1
MAP_VIEWS, MAP_FOLDS = 8, 5  # that are stored, and that are predicted
DETECTOR_RATIOS = {Depth.HEAD: 2.0, Depth.NECK: 2.5, Depth.LAST_STAGES: 3.0, Depth.ALL: 3.5}
FIXED_SECONDS = 1.0  # reading the task, fitting a head, writing a bundle
TRAINED_SHARE = 0.8  # of the images; the others are for validation
HEAD_SECONDS = 0.002  # cross-validating a linear head, per image
EVALUATION_FIXED_SECONDS = 1.0
RESERVE_FACTOR = 1.5  # safety factor on the time held back for the final evaluation


def forward_seconds(recipe: Recipe, resolution: int) -> float:
    """Seconds of one image's pass through all that predicts; `resolution` is used if the recipe has none."""
    seconds = [_network_seconds(recipe, name, resolution) for name in recipe.backbones]
    if _is_detector(recipe) or not recipe.pretrained:
        return sum(seconds)
    return len(recipe.framings) * sum(seconds) + (_tuned_seconds(recipe, resolution) if recipe.rung else 0.0)


def _network_seconds(recipe: Recipe, name: str, resolution: int) -> float:
    return pass_seconds(recipe.kind, name, recipe.resolution or resolution)


def _tuned_seconds(recipe: Recipe, resolution: int) -> float:
    return pass_seconds(recipe.kind, recipe.backbones[0], recipe.tuned_resolution or recipe.resolution or resolution)


def expected_seconds(
    recipe: Recipe,
    image_count: int,
    resolution: int = PRETRAINED_RESOLUTION,
    pace: float = 1.0,
    known: AbstractSet[FeaturePass] = frozenset(),
    *,
    by_graph: bool = False,
) -> float:
    """The seconds that a recipe takes, without the passes whose features are known."""
    scaling = scaling_seconds(recipe, image_count, resolution, known=known, by_graph=by_graph)
    return max(1.0, pace) * FIXED_SECONDS + pace * scaling


def scaling_seconds(
    recipe: Recipe,
    image_count: int,
    resolution: int = PRETRAINED_RESOLUTION,
    epochs: int | None = None,
    known: AbstractSet[FeaturePass] = frozenset(),
    *,
    by_graph: bool = False,
) -> float:
    """The part that grows with the images, at a pace of 1; with `epochs`, for that many instead of all.

    `by_graph` says that the pace is one of passes by graphs, which no training has.
    """
    if is_linear(recipe):
        passes = recipe.views * forward_seconds(recipe, resolution) - _seconds_of_passes(recipe, resolution, known)
        return image_count * (passes + HEAD_SECONDS)
    epochs = recipe.max_epochs if epochs is None else epochs
    passes = _map_passes(epochs) if recipe.stored_maps else epochs * _epoch_passes(recipe)
    return image_count * passes * _tuned_seconds(recipe, resolution) / (BY_GRAPH if by_graph else 1.0)


def _epoch_passes(recipe: Recipe) -> float:
    """Forward passes that take as long as training on an image, or validating by it, once."""
    ratio = DETECTOR_RATIOS[recipe.depth] if _is_detector(recipe) else TRAIN_RATIO
    trained = 1.0 if recipe.refit else TRAINED_SHARE
    return trained * ratio + (1.0 - trained)


def _map_passes(epochs: int) -> float:
    """Forward passes that take as long as storing maps, tuning without each fold, and tuning on all images."""
    return MAP_VIEWS + epochs * MAPS_RATIO * (MAP_FOLDS * TRAINED_SHARE + 1)


def evaluation_seconds(
    recipe: Recipe, test_count: int, resolution: int = PRETRAINED_RESOLUTION, pace: float = 1.0
) -> float:
    """Seconds that evaluating a model of this recipe on the test dataset takes; 0 without one."""
    if not test_count:
        return 0.0
    return max(1.0, pace) * EVALUATION_FIXED_SECONDS + pace * test_count * forward_seconds(recipe, resolution)


def reserve_seconds(
    recipe: Recipe, test_count: int, resolution: int = PRETRAINED_RESOLUTION, pace: float = 1.0
) -> float:
    """Seconds to hold back for that."""
    return RESERVE_FACTOR * evaluation_seconds(recipe, test_count, resolution, pace)


def known_passes(trials: list[Trial]) -> frozenset[FeaturePass]:
    """The passes whose features the trials have left in the feature bank."""
    known: set[FeaturePass] = set()
    for trial in trials:
        if trial.result is not None and trial.result.weights_source is not WeightsSource.RANDOM:
            ran = replace(trial.recipe, backbones=trial.result.networks or trial.recipe.backbones)
            known |= passes_of(ran)
    return frozenset(known)


def _seconds_of_passes(recipe: Recipe, resolution: int, known: AbstractSet[FeaturePass]) -> float:
    """Seconds for one image of those of the recipe's passes that are known."""
    return sum(_network_seconds(recipe, each.network, resolution) for each in passes_of(recipe) & known)


def resolution_of(trials: list[Trial]) -> int:
    """The side for recipes that leave it open: the first trial's, once it is known."""
    first = trials[0].result if trials else None
    return first.resolution if first and not trials[0].recipe.resolution else PRETRAINED_RESOLUTION


def paced_by_graph(trials: list[Trial]) -> bool:
    """Whether the pace that the trials show is one of passes by graphs."""
    first = trials[0].result if trials else None
    return bool(first and first.features and first.features.by_graph)


def slowness(trials: list[Trial]) -> float:
    """The pace that the trials show; 1 until one does.

    For a classifier the first linear head shows it; for a detector the latest trial, by the epochs that it ran.
    """
    done = [trial for trial in trials if trial.work.state is WorkState.SUCCEEDED and trial.result is not None]
    detectors = [trial for trial in done if trial.result and trial.result.epochs and _is_detector(trial.recipe)]
    measured = (
        detectors[-1:] or [trial for trial in done if trial.recipe.rung == 0 and not _is_detector(trial.recipe)][:1]
    )
    return _pace(_seconds_of(measured[0]), _expected_of(measured[0])) if measured else 1.0


def _pace(seconds: float, expected: float) -> float:
    """The pace at which a trial takes these seconds instead of those expected at 1.

    Of a trial that is hardly longer than its fixed part, at least half counts as growing: a trial of a few images says
    little about one of many.
    """
    if seconds >= expected:
        return seconds / expected
    if expected <= FIXED_SECONDS:
        return 1.0
    return min(1.0, max(seconds - FIXED_SECONDS, 0.5 * seconds) / (expected - FIXED_SECONDS))


def _is_detector(recipe: Recipe) -> bool:
    return recipe.kind is ModelKind.GENERIC_DETECTOR


def _seconds_of(trial: Trial) -> float:
    """Seconds that a finished trial took, or would have taken had it computed all of its features itself."""
    reused = trial.result.features.saved if trial.result and trial.result.features else ZERO
    return (trial.work.charged + reused).total_seconds()


def as_run(recipe: Recipe, source: WeightsSource) -> Recipe:
    """What a worker without pretrained weights runs for a linear recipe: one network with random ones."""
    if source is not WeightsSource.RANDOM or not is_linear(recipe):
        return recipe
    return Recipe(name=recipe.name, rung=0, backbones=(RANDOM_START,), views=recipe.views)


def _expected_of(trial: Trial) -> float:
    """Seconds that a finished trial should have taken."""
    recipe, result, count = trial.recipe, trial.result, trial.training.image_count
    assert result is not None, "it succeeded"
    if _is_detector(recipe):
        return FIXED_SECONDS + scaling_seconds(recipe, count, result.resolution, result.epochs)
    recipe = as_run(recipe, result.weights_source)
    if recipe.choose and result.networks and BACKBONES.keys() >= set(result.networks):
        recipe = replace(recipe, backbones=result.networks)
    return expected_seconds(recipe, count, result.resolution)
