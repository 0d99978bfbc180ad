"""A trained classifier's first tag is the decision that its evaluation counts, for every image."""

from dataclasses import replace
from pathlib import Path

from services.trainer.engine.data import open_images
from services.trainer.engine.run import run
from services.trainer.messages import EvaluateTask, EvaluationResult, Result
from services.trainer.predictions import Predictions, read_predictions
from services.vision import bundle
from services.vision.classifier import Classifier
from tests.unit.predictor.serving import confidences, serving
from tests.unit.trainer.engine.shapes import SHAPES, linear_recipe, task_for, write_snapshot


async def test_the_first_tag_of_every_image_is_the_category_that_the_evaluation_predicted(tmp_path: Path) -> None:
    train = write_snapshot(tmp_path / "train")
    test = write_snapshot(tmp_path / "test", per_category=20, seed=1)
    trained = run(task_for(train, linear_recipe()), lambda _: None)
    assert isinstance(trained, Result), trained
    decisions = predicted_categories(trained.bundle_directory, test)
    images = open_images(test, "datasets/test")
    classifier = bundle.load(Path(trained.bundle_directory))
    assert isinstance(classifier, Classifier)
    classifier.card = replace(classifier.card, thresholds=(1.0, 0.0, 0.0))
    async with serving(tmp_path, network=classifier) as running:
        answers = [confidences(await running.analyze(images.read(row))) for row in range(len(images.samples))]
        kept = [await running.analyze(images.read(row), use_suggested_thresholds=True) for row in range(len(answers))]
    assert [next(iter(answer)) for answer in answers] == [SHAPES[index] for index in decisions]
    assert all(answer.keys() == set(SHAPES) for answer in answers)
    firsts = [next(iter(confidences(answer)), "") for answer in kept]
    assert firsts != [next(iter(answer)) for answer in answers], "the first category's threshold hides it"


def predicted_categories(bundle_directory: str, test: Path) -> tuple[int, ...]:
    """The index of the category that an evaluation predicts for each image of a snapshot."""
    task = EvaluateTask(
        evaluation="models/m/evaluations/e",
        dataset="datasets/test",
        bundle_directory=bundle_directory,
        directory=str(test),
        output_directory=str(test / "evaluated"),
    )
    measured = run(task, lambda _: None)
    assert isinstance(measured, EvaluationResult), measured
    predictions = read_predictions(Path(measured.predictions_path).read_bytes())
    assert isinstance(predictions, Predictions)
    return predictions.predicted
