"""What recipes cost: a table of the reference device, scaled by what the trials before took. Seconds throughout."""

from services.trainer.domain import Trial
from services.trainer.planner.classifier_recipes import SCRATCH_BACKBONE
from services.trainer.recipe import Depth, ModelKind, Recipe
from services.trainer.work import WorkState

# Of the reference device (two busy cores of a 2024 server CPU) per image of 224 x 224: decode, preprocess, forward.
FORWARD_SECONDS = {
    "mobilenet_v3_small": 0.008,
    "mobilenet_v3_large": 0.014,
    "mobilenet_v2": 0.018,
    "mobilenet_v2_keras": 0.018,
    "squeezenet1_1": 0.012,
    "efficientnet_b0": 0.025,
    "resnet18": 0.032,
    "resnet50": 0.075,
    "convnext_tiny": 0.085,
}
# Of the reference device per picture of 4:3 with the longer side of DETECTOR_SIDES: decode, letterbox, forward.
DETECTOR_SECONDS = {
    "yolox_nano": 0.010,
    "yolox_tiny": 0.03,
    "yolox_s": 0.13,
    "ssdlite320_mobilenet_v3_large": 0.025,
    "fasterrcnn_mobilenet_v3_large_320_fpn": 0.06,
    "fcos_resnet50_fpn": 1.3,
    "retinanet_resnet50_fpn_v2": 1.5,
    "fasterrcnn_resnet50_fpn_v2": 2.8,
}
DETECTOR_SIDES = {  # of their own; see services.vision.detectors
    "yolox_nano": 416,
    "yolox_tiny": 416,
    "yolox_s": 640,
    "ssdlite320_mobilenet_v3_large": 320,
    "fasterrcnn_mobilenet_v3_large_320_fpn": 416,
    "fcos_resnet50_fpn": 1056,
    "retinanet_resnet50_fpn_v2": 1056,
    "fasterrcnn_resnet50_fpn_v2": 1056,
}
BACKBONES = {ModelKind.GENERIC_CLASSIFIER: FORWARD_SECONDS, ModelKind.GENERIC_DETECTOR: DETECTOR_SECONDS}
PRETRAINED_RESOLUTION = 256  # where a recipe leaves it open; see services.vision.card.input_size
TRAIN_RATIO = 3.5  # a training step against a forward pass, per image
DETECTOR_RATIOS = {Depth.HEAD: 2.0, Depth.NECK: 2.5, Depth.LAST_STAGES: 3.0, Depth.ALL: 3.5}
FIXED_SECONDS = 1.0  # reading the task, fitting a head, writing a bundle
TRAINED_SHARE = 0.8  # of the images; the others validate
HEAD_SECONDS = 0.002  # cross-validating a linear head, per image
EVALUATION_FIXED_SECONDS = 1.0
RESERVE_FACTOR = 1.5  # of what is held back for what must not fail


def forward_seconds(recipe: Recipe, resolution: int) -> float:
    """Of one image through all of the recipe's networks, at the side that it leaves open or asks for."""
    if _is_detector(recipe):
        (name,) = recipe.backbones
        return DETECTOR_SECONDS[name] * ((recipe.resolution or resolution) / DETECTOR_SIDES[name]) ** 2
    side = recipe.resolution or resolution
    return sum(FORWARD_SECONDS[name] for name in recipe.backbones) * (side / 224) ** 2


def expected_seconds(
    recipe: Recipe, image_count: int, resolution: int = PRETRAINED_RESOLUTION, epochs: int | None = None
) -> float:
    """The cost of a recipe on the reference device; where it has epochs, of all of them, or of so many."""
    forward = forward_seconds(recipe, resolution)
    ratio = TRAIN_RATIO
    if _is_detector(recipe):
        ratio = DETECTOR_RATIOS[recipe.depth]
    elif recipe.rung == 0:
        return FIXED_SECONDS + image_count * (recipe.views * forward + HEAD_SECONDS)
    trained = 1.0 if recipe.refit else TRAINED_SHARE
    passes = trained * ratio + (1.0 - trained)
    return FIXED_SECONDS + (recipe.max_epochs if epochs is None else epochs) * image_count * forward * passes


def reserve_seconds(recipe: Recipe, test_count: int, resolution: int = PRETRAINED_RESOLUTION) -> float:
    """What is held back to measure a model of this recipe on the test dataset; 0 without one."""
    if not test_count:
        return 0.0
    return RESERVE_FACTOR * (EVALUATION_FIXED_SECONDS + test_count * forward_seconds(recipe, resolution))


def resolution_of(trials: list[Trial]) -> int:
    """The side that recipes get which leave it open: the first trial's, once that has shown it."""
    first = trials[0].result if trials else None
    return first.resolution if first and not trials[0].recipe.resolution else PRETRAINED_RESOLUTION


def slowness(trials: list[Trial]) -> float:
    """How many times longer than predicted things take; 1 before there is a trial that says.

    A classifier's first rung says it; of detectors the latest trial, by the epochs that it ran.
    """
    done = [trial for trial in trials if trial.work.state is WorkState.SUCCEEDED and trial.result is not None]
    detectors = [trial for trial in done if trial.result and trial.result.epochs and _is_detector(trial.recipe)]
    said = detectors[-1:] or [trial for trial in done if trial.recipe.rung == 0 and not _is_detector(trial.recipe)][:1]
    return max(0.25, said[0].work.charged_seconds / _expected_of(said[0])) if said else 1.0


def _is_detector(recipe: Recipe) -> bool:
    return recipe.kind is ModelKind.GENERIC_DETECTOR


def _expected_of(trial: Trial) -> float:
    """What a trial that is done should have taken."""
    recipe, result, count = trial.recipe, trial.result, trial.training.image_count
    assert result is not None, "it is done"
    if _is_detector(recipe):
        return expected_seconds(recipe, count, result.resolution, result.epochs)
    if result.weights_source == "RANDOM":
        recipe = Recipe(name=recipe.name, rung=0, backbones=(SCRATCH_BACKBONE,), views=recipe.views)
    return expected_seconds(recipe, count, result.resolution)
