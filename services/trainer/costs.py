"""What recipes cost: a table of the reference device, scaled by what the trials before took. Seconds throughout."""

from services.trainer.domain import Trial
from services.trainer.protocol import Recipe
from services.trainer.recipes import SCRATCH_BACKBONE
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
PRETRAINED_RESOLUTION = 256  # where a recipe leaves it open; see services.vision.card.input_size
TRAIN_RATIO = 3.5  # a training step against a forward pass, per image
FIXED_SECONDS = 1.0  # reading the task, fitting a head, writing a bundle
HEAD_SECONDS = 0.002  # cross-validating a linear head, per image
EVALUATION_FIXED_SECONDS = 1.0
RESERVE_FACTOR = 1.5  # of what is held back for what must not fail


def forward_seconds(recipe: Recipe, resolution: int) -> float:
    """Of one image through all of the recipe's networks, at the side that it leaves open or asks for."""
    side = recipe.resolution or resolution
    return sum(FORWARD_SECONDS[name] for name in recipe.backbones) * (side / 224) ** 2


def expected_seconds(recipe: Recipe, image_count: int, resolution: int = PRETRAINED_RESOLUTION) -> float:
    """The cost of a recipe on the reference device; of rung 1, of all its epochs."""
    forward = forward_seconds(recipe, resolution)
    if recipe.rung == 0:
        return FIXED_SECONDS + image_count * (recipe.views * forward + HEAD_SECONDS)
    return FIXED_SECONDS + recipe.max_epochs * image_count * forward * (0.8 * TRAIN_RATIO + 0.2)


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
    """How many times longer than predicted the first rung took; 1 before there is one that says."""
    for trial in trials:
        if trial.work.state is WorkState.SUCCEEDED and trial.recipe.rung == 0 and trial.result is not None:
            recipe = trial.recipe
            if trial.result.weights_source == "RANDOM":
                recipe = Recipe(name=recipe.name, rung=0, backbones=(SCRATCH_BACKBONE,), views=recipe.views)
            expected = expected_seconds(recipe, trial.training.image_count, trial.result.resolution)
            return max(0.25, trial.work.charged_seconds / expected)
    return 1.0
