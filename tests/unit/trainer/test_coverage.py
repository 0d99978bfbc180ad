"""Coverage of test datasets: what is refused, what findings say, what a record keeps."""

from dataclasses import replace
from datetime import timedelta

import pytest

from services.kit import codec
from services.kit.errors import CategoriesUnknown
from services.kit.status import status_of
from services.trainer.coverage import LISTED, check_categories, findings, in_record, unknown_categories
from services.trainer.domain import Evaluation, Model
from services.trainer.performance import Coverage, UnknownCategory
from services.trainer.work import Work
from services.vision.card import ModelKind
from tests.unit.trainer.support import START, dataset, model, performance, snapshot

CLASSIFIER, DETECTOR = ModelKind.GENERIC_CLASSIFIER, ModelKind.GENERIC_DETECTOR
KNOWN = ("owl", "wren")


@pytest.mark.parametrize(
    ("categories", "kind", "says"),
    [
        ((("owl", 8, 8), ("Wren", 8, 8)), CLASSIFIER, ""),
        ((("owl", 8, 8), ("Wren", 9, 9)), CLASSIFIER, "9 of the 17 images of datasets/birds"),
        ((("owl ", 1, 1),), CLASSIFIER, "'owl ' (1 image; did you mean 'owl'?)"),
        ((("cat", 4, 4),), CLASSIFIER, "'cat' (4 images). The model knows 'owl', 'wren'."),
        ((("owl", 1, 90), ("Wren", 9, 90)), DETECTOR, ""),  # for a detector, regions count
        ((("owl", 9, 9), ("Wren", 1, 10)), DETECTOR, "10 of the 19 regions of datasets/birds"),
        ((("owl", 9, 9), ("cat", 0, 0)), CLASSIFIER, ""),  # declared but never used
    ],
)
def test_a_dataset_is_refused_once_more_than_half_of_it_is_unknown(
    categories: tuple[tuple[str, int, int], ...], kind: ModelKind, says: str
) -> None:
    found = dataset(categories=categories)
    if not says:
        return check_categories(found, KNOWN, kind)
    with pytest.raises(CategoriesUnknown) as caught:
        check_categories(found, KNOWN, kind)
    assert says in caught.value.message
    return None


def test_a_refusal_with_the_longest_names_fits_into_a_response() -> None:
    names = tuple((f"{number}{'字' * 250}", 2, 2) for number in range(2500))
    with pytest.raises(CategoriesUnknown) as caught:
        check_categories(dataset(categories=names), [f"K{name}" for name, _, _ in names], CLASSIFIER)
    assert status_of(caught.value).message.startswith("5000 of the 5000 images of datasets/birds")
    assert "and 2490 more" in caught.value.message
    assert len(caught.value.message) < 2500


def test_findings_name_what_was_left_out_and_why() -> None:
    coverage = Coverage(
        image_count=40,
        measured_image_count=33,
        unknown_image_count=4,
        unreadable_image_count=3,
        unknown_categories=unknown_categories([("Owl", 3, 0), ("owl", 9, 0), ("cat", 1, 0)], KNOWN),
        untested_categories=("wren",),
    )
    unknown, unreadable, untested = findings("datasets/t", coverage, ["a.png", "b.png", "c.png"])
    assert unknown.message == (
        "Left out 4 of the 40 images of datasets/t, because the model does not know their category: "
        "'Owl' (3 images; did you mean 'owl'?), 'cat' (1 image)."
    )
    assert unreadable.message.endswith("which cannot be read: a.png, b.png, c.png.")
    assert untested.message == "No evaluated image shows these categories of the model: 'wren'."
    assert all(finding.remedy.endswith(".") for finding in (unknown, unreadable, untested))
    assert findings("datasets/t", Coverage(image_count=9, measured_image_count=9), ()) == ()


def test_findings_about_regions_count_the_images_that_show_nothing_else() -> None:
    unknown = unknown_categories([("Owl", 5, 7), ("owl", 9, 9)], KNOWN)
    coverage = Coverage(
        image_count=12,
        measured_image_count=9,
        unknown_image_count=3,
        region_count=16,
        unknown_region_count=7,
        unknown_categories=unknown,
    )
    (finding,) = findings("datasets/t", coverage, ())
    assert finding.message == (
        "Left out 7 of the 16 regions of datasets/t, because the model does not know their category, "
        "and 3 of the 12 images, which show nothing else: 'Owl' (7 regions; did you mean 'owl'?)."
    )
    (finding,) = findings("datasets/t", replace(coverage, unknown_image_count=0, measured_image_count=12), ())
    assert "images" not in finding.message


def test_a_record_keeps_only_the_first_names() -> None:
    names = tuple(f"{number:04d}{'字' * 250}" for number in range(1000))
    unknown = tuple(UnknownCategory(name=name, image_count=1, similar=name) for name in names)
    coverage = Coverage(image_count=9, measured_image_count=9, unknown_categories=unknown, untested_categories=names)
    kept = in_record(coverage)
    assert kept.unknown_categories == unknown[:LISTED]
    assert kept.untested_categories == names[:LISTED]
    assert len(codec.encode(kept)) < 64 * 1024


def test_records_of_the_previous_version_can_be_read() -> None:
    work = Work(create_time=START, allowance=timedelta(seconds=1.0))
    evaluation = Evaluation(
        name="models/m/evaluations/e",
        model_uid="u",
        test_dataset="datasets/t",
        test=snapshot(),
        model_version="v",
        bundle_key="b/",
        model_kind=CLASSIFIER,
        work=work,
        update_time=START,
        performance=performance(),
    )
    written = codec.encode(evaluation).replace(b'"findings":[]', b'"warnings":["3 images"]')
    written = written.replace(b',"coverage":null', b"")
    assert b"coverage" not in written
    assert b"findings" not in written
    assert codec.decode(written, Evaluation) == evaluation
    assert codec.decode(codec.encode(model()), Model) == model()
