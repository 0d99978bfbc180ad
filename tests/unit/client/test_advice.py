"""Advice: sentences that claim nothing that the intervals do not show."""

from __future__ import annotations

import pytest

from sightline.client.advice import advice
from sightline.client.results.model import ModelData
from sightline.v1.insight_pb2 import CategoryGain, Doubt, ExpectedGain, LearningCurve, Mistake
from sightline.v1.model_pb2 import Model


def gain(value: float, low: float, high: float) -> ExpectedGain:
    made = ExpectedGain(value=value)
    made.interval.low, made.interval.high, made.interval.level = low, high, 0.95
    return made


def category(name: str, value: float, low: float, high: float, recall: float = 0.67, net: float = 0.0) -> CategoryGain:
    """`net` is what others lose by it."""
    own, others = gain(value, low, high), gain(value - net, low - net, high - net)
    return CategoryGain(category=name, image_count=24, recall=recall, gain=own, net_gain=others)


def model(overall: ExpectedGain | None, *categories: CategoryGain) -> Model:
    """A model that has ended, with this learning curve."""
    made = Model(name="models/m", model_version="t001.1-u", state=Model.SUCCEEDED)
    made.end_time.seconds = 1
    if overall:
        made.learning_curve.CopyFrom(LearningCurve(added_image_count=10, gain=overall, categories=categories))
        made.learning_curve.points.add(images_per_category=10, value=0.8)
    return made


def said(message: Model) -> str:
    return "\n".join(sentence for one in advice(ModelData.of(message)) for sentence in one.sentences)


def test_what_more_images_are_worth_is_said_with_its_interval_and_what_to_collect_first() -> None:
    text = said(
        model(
            gain(0.04, 0.012, 0.07),
            category("Pink-Lady", 0.042, 0.01, 0.071),
            category("Granny", 0.12, -0.02, 0.2),
            category("Red-Delicious", 0.08, 0.03, 0.12, net=0.06),
            category("Leek", 0.0, -0.001, 0.003, recall=1.0),
        )
    )
    assert "10 images more of every category are worth about +4 points (1.2 to 7) of accuracy." in text
    first = "+10 images of Pink-Lady are worth about +4.2 points (1 to 7.1) of its recall; 67 % of its 24 images"
    assert f"{first} are recognised.\n" in text
    assert "Red-Delicious are worth about +8 points (3 to 12)" in text
    assert "Other categories may lose as much by it (net -3 to 6)" in text
    assert text.index("Pink-Lady") < text.index("Red-Delicious"), "what harms no other category comes first"
    assert "Granny" not in text, "its interval includes 0"
    assert "More images of these will hardly help: Leek." in text


def test_where_the_interval_includes_zero_it_says_that_it_cannot_be_told() -> None:
    text = said(model(gain(0.01, -0.005, 0.03), category("Granny", 0.12, -0.02, 0.2)))
    assert "It cannot be told whether 10 images more of every category help: -0.5 to 3 points." in text
    assert "For no single category can it be told" in text
    assert "worth" not in text


def test_when_more_images_will_not_help_it_says_stop() -> None:
    text = said(model(gain(0.002, 0.001, 0.004), category("Granny", 0.12, 0.02, 0.2)))
    assert text.startswith("Stop collecting images like these: 10 images more of every category are worth at most 0.4")
    assert "Granny" not in text


def test_confused_categories_are_counted_both_ways() -> None:
    message = model(None)
    matrix = message.performance.confusion_matrix
    matrix.categories.extend(["cat", "dog", "owl"])
    for row, col, count in ((0, 0, 5), (0, 1, 3), (1, 0, 2), (1, 1, 10), (2, 0, 1), (2, 2, 9)):
        matrix.entries.add(row=row, col=col, count=count)
    text = said(message)
    assert "cat and dog are taken for one another in 5 of their 20 images." in text
    assert "owl" not in text, "one image is no pattern"


def test_labels_to_check_are_those_of_sure_mistakes() -> None:
    message = model(None)
    message.worst_mistakes.extend(
        [
            Mistake(file_name="a.jpg", true_category="cat", predicted_category="dog", probability=0.98, log_loss=4.0),
            Mistake(file_name="b.jpg", true_category="cat", predicted_category="owl", probability=0.4, log_loss=2.0),
        ]
    )
    text = said(message)
    assert "a.jpg is labelled cat, but looks like dog (98 % sure)." in text
    assert "b.jpg" not in text
    del message.worst_mistakes[:]
    message.worst_mistakes.add(file_name="c.jpg", missed_region_count=1, false_object_count=3)
    message.worst_mistakes.add(file_name="d.jpg", missed_region_count=2)
    message.worst_mistakes.add(file_name="e.jpg", false_object_count=1)
    text = said(message)
    assert "c.jpg: 1 box not found, 3 found where there is none." in text
    assert "d.jpg: 2 boxes not found.\ne.jpg: 1 box found where there is none." in text


@pytest.mark.parametrize(("low", "doubted"), [(0.6, True), (0.61, False)])
def test_a_classifier_that_may_be_no_better_than_its_commonest_category_is_doubted(
    low: float, *, doubted: bool
) -> None:
    message = model(None)
    message.performance.accuracy_top1, message.performance.image_count = 0.7, 10
    message.performance.intervals["accuracy_top1"].low = low
    message.performance.tag_performance["cat"].support = 6
    message.performance.tag_performance["dog"].support = 4
    whether = "It cannot be told from 10 images whether the model is better than always answering cat: "
    assert (whether + "it is right in 70 %, that would be right in 60 %." in said(message)) == doubted


def test_a_detector_that_found_nothing_says_so() -> None:
    message = model(None)
    message.performance.mean_average_precision_30 = 0.0
    message.performance.tag_performance["cat"].support = 1
    assert "The model found nothing of what it was measured on: 1 box." in said(message)
    message.performance.mean_average_precision_30 = 0.1
    assert "found nothing" not in said(message)


def test_boxes_to_check_are_those_of_the_surest_doubts() -> None:
    message = model(None)
    message.worst_mistakes.add(file_name="c.jpg", missed_region_count=1, false_object_count=3)
    kinds = Doubt.MISSING, Doubt.MISPLACED, Doubt.CATEGORY
    for kind in kinds:
        message.doubts.add(file_name="a.jpg", kind=kind, category="cat", box=[1, 2, 30, 40], confidence=0.96)
    message.doubts[2].region_category = "dog"
    text = said(message)
    assert "a.jpg: there is no box at [1, 2, 30, 40], where there seems to be cat (96 % sure)." in text
    assert "a.jpg: the box near [1, 2, 30, 40] is not where there seems to be cat (96 % sure)." in text
    assert "a.jpg: what is labelled dog at [1, 2, 30, 40] looks like cat (96 % sure)." in text
    assert "c.jpg" not in text


@pytest.mark.parametrize("reason", ["A category has too few images.", ""])
def test_without_a_curve_it_says_why(reason: str) -> None:
    message = model(None)
    message.learning_curve.unavailable = reason
    assert (
        said(message)
        == f"What more images are worth is not known. {reason or 'This version of the service does not measure it.'}"
    )


def test_before_there_is_a_result_there_is_no_advice_and_before_the_end_it_is_provisional() -> None:
    assert said(Model(name="models/m")) == "There is no result yet; ask again when training has one."
    failed = Model(name="models/m", state=Model.FAILED)
    failed.end_time.GetCurrentTime()
    assert said(failed) == "Training has ended without a result."
    message = model(gain(0.04, 0.012, 0.07))
    message.ClearField("end_time")
    assert said(message).endswith("Training has not ended; all of this may change.")
