"""The ladder of trials: which recipe comes next, what it will cost, and when to stop. Pure functions of records.

Cheap rungs come first, so that there is a usable model after seconds; a dearer one follows only while its predicted
cost, with the final evaluation held back, fits into what is left of the budget. Costs are predicted from a table of
the reference device, scaled by what the trials before took.
"""

from dataclasses import dataclass

import msgspec

from services.kit.errors import Failure, NotEnoughBudget
from services.trainer.domain import Evaluation, Hyperparameters, Model, StopReason, Trial, granted
from services.trainer.performance import Source
from services.trainer.protocol import Depth, Recipe
from services.trainer.work import WorkState, whole_microseconds

# Seconds of the reference device (two cores of a 2024 server CPU) per image: decode, preprocess, forward.
FORWARD_SECONDS = {
    "mobilenet_v3_small": 0.008,
    "mobilenet_v3_large": 0.014,
    "mobilenet_v2": 0.018,
    "mobilenet_v2_keras": 0.018,
    "squeezenet1_1": 0.015,
    "efficientnet_b0": 0.025,
    "resnet18": 0.032,
    "resnet50": 0.075,
    "convnext_tiny": 0.085,
}
TRAIN_RATIO = 3.5  # a training step against a forward pass, per image
FIXED_SECONDS = 1.0  # reading the task, fitting a head, writing a bundle
HEAD_SECONDS = 0.002  # cross-validating a linear head, per image
EVALUATION_FIXED_SECONDS = 1.0
SAFETY = 1.5  # of what is held back for what must not fail
WORTHWHILE_EPOCHS = 8  # fewer are not worth a fine-tuning's cost
FIRST_BACKBONE = "mobilenet_v2"
SCRATCH_BACKBONE = "resnet18"


@dataclass(frozen=True, slots=True)
class Wait:
    """Work is under way; nothing to decide."""


@dataclass(frozen=True, slots=True)
class StartTrial:
    """Carry out this recipe next."""

    recipe: Recipe
    allowance_seconds: float
    expected_seconds: float
    init_bundle_key: str = ""


@dataclass(frozen=True, slots=True)
class StartEvaluation:
    """Measure the best bundle on the test dataset."""

    allowance_seconds: float


@dataclass(frozen=True, slots=True)
class Finish:
    """The training is over and has a bundle."""

    reason: StopReason


@dataclass(frozen=True, slots=True)
class Fail:
    """The training is over and has none."""

    error: Failure


Step = Wait | StartTrial | StartEvaluation | Finish | Fail


def plan(model: Model, trials: list[Trial], final: Evaluation | None) -> Step:
    """What a model in TRAINING needs next. `trials` ascend by number; `final` is its own evaluation, if begun."""
    if final is not None:
        return Finish(_reason(model, trials)) if final.work.ended else Wait()
    if any(not trial.work.ended for trial in trials):
        return Wait()
    step = _next_trial(model, trials)
    if isinstance(step, StartTrial):
        return step
    if model.served is None:
        return Fail(_failure(model, trials))
    if model.test is not None:
        return StartEvaluation(whole_microseconds(model.budget_seconds - granted(trials, None)))
    return Finish(step)


def minimum_budget(wanted: Hyperparameters, image_count: int, test_count: int) -> float:
    """The least budget, in seconds, with which the first rung and the evaluation fit for certain."""
    recipe = _scaled(_first(wanted.backbones), wanted)
    return SAFETY * expected_seconds(recipe, image_count, 1.0) + reserve_seconds(recipe, test_count, 1.0)


def suggested_budget(wanted: Hyperparameters, image_count: int, test_count: int) -> float:
    """A budget, in seconds, that pays for the whole ladder."""
    first = _first(wanted.backbones)
    climb = [_scaled(recipe, wanted) for recipe in (first, _fine_tuning(first.backbones[0], pretrained=True))]
    cost = sum(expected_seconds(recipe, image_count, 1.0) for recipe in climb)
    pays = 1.2 * cost + max(reserve_seconds(recipe, test_count, 1.0) for recipe in climb)
    return max(pays, minimum_budget(wanted, image_count, test_count))


def check_budget(model: Model, image_count: int, test_count: int) -> None:
    """NotEnoughBudget, with the minimum and a suggestion, if not even the first rung fits."""
    minimum = minimum_budget(model.hyperparameters, image_count, test_count)
    if model.budget_seconds < minimum:
        raise NotEnoughBudget(
            budget_seconds=f"{model.budget_seconds:g}",
            dataset=model.training_dataset,
            image_count=image_count,
            minimum_seconds=_round_up(minimum),
            suggested_seconds=_round_up(suggested_budget(model.hyperparameters, image_count, test_count)),
        )


def expected_seconds(recipe: Recipe, image_count: int, slowness: float) -> float:
    """The predicted cost of a recipe; `slowness` is measured against predicted cost of the trials before."""
    forward = sum(FORWARD_SECONDS.get(name, 0.05) for name in recipe.backbones) * _area(recipe)
    if recipe.rung == 0:
        return slowness * (FIXED_SECONDS + image_count * (recipe.views * forward + HEAD_SECONDS))
    epoch = image_count * forward * (0.8 * TRAIN_RATIO + 0.2)
    return slowness * (FIXED_SECONDS + epoch * recipe.max_epochs)


def reserve_seconds(recipe: Recipe, test_count: int, slowness: float) -> float:
    """What is held back to measure a model of this recipe on the test dataset; 0 without one."""
    if not test_count:
        return 0.0
    forward = sum(FORWARD_SECONDS.get(name, 0.05) for name in recipe.backbones) * _area(recipe)
    return SAFETY * slowness * (EVALUATION_FIXED_SECONDS + test_count * forward)


def slowness(trials: list[Trial]) -> float:
    """How many times longer than predicted the trials took; 1 before there is one that says."""
    ratios = [
        trial.work.charged_seconds / expected_seconds(trial.recipe, trial.training.image_count, 1.0)
        for trial in trials
        if trial.work.state is WorkState.SUCCEEDED and trial.recipe.rung == 0
    ]
    return max(0.25, ratios[0]) if ratios else 1.0


def _next_trial(model: Model, trials: list[Trial]) -> StartTrial | StopReason:
    """The next recipe that fits, or why there is none."""
    parameters = model.hyperparameters
    if parameters.max_trials is not None and len(trials) >= parameters.max_trials:
        return StopReason.LADDER_COMPLETED
    if (reason := _nothing_to_gain(model, trials)) is not None:
        return reason
    done = {trial.recipe.name for trial in trials}
    candidates = [recipe for recipe in _recipes(model, trials) if recipe.name not in done]
    pace, count = slowness(trials), _image_count(model)
    left = model.budget_seconds - granted(trials, None)
    for recipe in candidates:
        available = whole_microseconds(left - _reserve(recipe, model, trials, pace))
        expected = expected_seconds(recipe, count, pace)
        least = expected if recipe.rung == 0 else expected * WORTHWHILE_EPOCHS / recipe.max_epochs
        if available >= least or (not trials and available > 0):
            allowance = available if recipe.rung or not trials else min(available, 3 * expected)
            return StartTrial(recipe, allowance, expected, _head_for(recipe, trials))
    return StopReason.BUDGET_REACHED if candidates else StopReason.LADDER_COMPLETED


def _reserve(recipe: Recipe, model: Model, trials: list[Trial], pace: float) -> float:
    """What stays for the final evaluation, whether this recipe's bundle will be served or the one that is now."""
    served = [trial.recipe for trial in trials if model.served and trial.name == model.served.trial]
    return max(reserve_seconds(candidate, _test_count(model), pace) for candidate in (recipe, *served))


def _nothing_to_gain(model: Model, trials: list[Trial]) -> StopReason | None:
    """CONVERGED once the best score cannot be told from a perfect one."""
    best = next((t.result for t in trials if model.served and t.name == model.served.trial), None)
    if best is not None and best.score >= 1.0:
        return StopReason.CONVERGED
    return None


def _recipes(model: Model, trials: list[Trial]) -> list[Recipe]:
    """The ladder as far as it is known: the first rung tells which weights there are, and how many images."""
    parameters = model.hyperparameters
    ladder = [_first(parameters.backbones)]
    first = trials[0].result if trials else None
    if first is not None:
        known = tuple(name for name in first.backbones if name in FORWARD_SECONDS)
        ladder = _pretrained_ladder(parameters.backbones or known) if known else _scratch_ladder()
        if first.performance.source is Source.CROSS_VALIDATION and model.test is None:
            ladder = [r for r in ladder if r.rung == 0]  # no image is left to measure a fine-tuned model on
        ladder.insert(0, trials[0].recipe)
    elif trials:
        ladder = [trials[0].recipe, *_scratch_ladder()]
    if parameters.max_rung is not None:
        ladder = [recipe for recipe in ladder if recipe.rung <= parameters.max_rung]
    return [_scaled(recipe, parameters) for recipe in ladder]


def _scaled(recipe: Recipe, wanted: Hyperparameters) -> Recipe:
    return msgspec.structs.replace(recipe, resolution=wanted.resolution) if wanted.resolution else recipe


def _first(backbones: tuple[str, ...]) -> Recipe:
    return _linear((backbones[0],) if backbones else (FIRST_BACKBONE,))


def _pretrained_ladder(backbones: tuple[str, ...]) -> list[Recipe]:
    """Frozen features of each network and of all together, then fine-tuning of the first."""
    several = tuple(sorted(set(backbones), key=lambda name: (FORWARD_SECONDS[name], name)))[:3]
    ladder = [_linear(several), _linear(several, views=2)] if len(several) > 1 else [_linear(several, views=2)]
    first = FIRST_BACKBONE if FIRST_BACKBONE in backbones else backbones[0]
    return [*ladder, _fine_tuning(first, pretrained=True)]


def _scratch_ladder() -> list[Recipe]:
    return [_fine_tuning(SCRATCH_BACKBONE, pretrained=False)]


def _linear(backbones: tuple[str, ...], views: int = 1) -> Recipe:
    name = "+".join(backbones) + " linear" + (f", {views} views" if views > 1 else "")
    return Recipe(name=name, rung=0, backbones=backbones, views=views, depth=Depth.HEAD)


def _fine_tuning(backbone: str, *, pretrained: bool) -> Recipe:
    if not pretrained:
        return Recipe(name=f"{backbone} from scratch", rung=1, backbones=(backbone,), pretrained=False)
    return Recipe(name=f"{backbone} fine-tuned", rung=1, backbones=(backbone,), max_epochs=20, patience=5)


def _head_for(recipe: Recipe, trials: list[Trial]) -> str:
    """The bundle of the linear head that a fine-tuning of one network starts from; "" if there is none."""
    for trial in trials:
        same = trial.recipe.rung == 0 and trial.recipe.backbones == recipe.backbones
        if recipe.rung == 1 and recipe.pretrained and same and trial.result is not None:
            return trial.result.bundle_key
    return ""


def _area(recipe: Recipe) -> float:
    """Pixels against those of 224 × 224, which the table is for."""
    return (recipe.resolution / 224) ** 2 if recipe.resolution else 1.0


def _image_count(model: Model) -> int:
    return model.training.image_count if model.training else 0


def _test_count(model: Model) -> int:
    return model.test.image_count if model.test else 0


def _reason(model: Model, trials: list[Trial]) -> StopReason:
    step = _next_trial(model, trials)
    return StopReason.BUDGET_REACHED if isinstance(step, StartTrial) else step


def _failure(model: Model, trials: list[Trial]) -> Failure:
    """Why there is no bundle: the last trial's own error, or a budget that did not suffice."""
    for trial in reversed(trials):
        if trial.work.error is not None:
            return trial.work.error
    wanted, count, tests = model.hyperparameters, _image_count(model), _test_count(model)
    pace = max(1.0, slowness(trials))
    return NotEnoughBudget(
        budget_seconds=f"{model.budget_seconds:g}",
        dataset=model.training_dataset,
        image_count=count,
        minimum_seconds=_round_up(max(pace * minimum_budget(wanted, count, tests), 1.5 * model.budget_seconds)),
        suggested_seconds=_round_up(max(pace * suggested_budget(wanted, count, tests), 3 * model.budget_seconds)),
    ).failure()


def _round_up(seconds: float) -> int:
    return int(-(-seconds // 1))
