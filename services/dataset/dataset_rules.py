"""The codes of findings about a whole dataset, and about two of them beside each other."""

from services.dataset.rule import Rule, Severity

_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO

DATASET_RULES: dict[str, Rule] = {
    "exactDuplicate": Rule(_W, "The image is identical to {other!r} (image {other_id}).", "Keep one of the two."),
    "duplicateLabelsDiffer": Rule(
        _E,
        "The image is identical to {other!r} (image {other_id}), but {difference}. Both were kept.",
        "Correct the annotations of one, then keep one of the two.",
    ),
    "nearDuplicate": Rule(
        _W,
        "The image is nearly the same as {other!r} (image {other_id}).",
        "Keep one of the two, unless both are wanted; training keeps them on one side of every split.",
    ),
    "nearLabelsDiffer": Rule(
        _W,
        "The image is nearly the same as {other!r} (image {other_id}), but {difference}.",
        "Compare the two, and correct the label that is wrong.",
    ),
    "categoriesAlike": Rule(
        _W,
        "The categories {names} differ only in case, spaces, hyphens or Unicode form.",
        "Merge them if they mean the same; a model treats them as different.",
    ),
    "categoryWithoutImages": Rule(_W, "No usable image has the category {category!r}.", "Add images, or drop it."),
    "categoryTooFewImages": Rule(
        _W,
        "The category {category!r} has {count:usable image|usable images}; training needs at least {minimum}.",
        "Add images, or drop it.",
    ),
    "tooFewCategories": Rule(
        _W,
        "{count:category has|categories have} usable images; training needs at least {minimum}.",
        "Add images of other categories.",
    ),
    "categoriesImbalanced": Rule(
        _W,
        "{category!r} has {most:annotation|annotations}; "
        "{count:category has|categories have} less than a twentieth of that: {names}.",
        "Add images of the rare categories; metrics averaged over categories weight them equally.",
    ),
    "categoriesSmall": Rule(
        _I,
        "{count:category has|categories have} fewer than {minimum:usable image|usable images}: {names}.",
        "Add images; with so few, neither training nor measuring is reliable.",
    ),
    "boxesAtBorder": Rule(
        _I,
        "{count} of {total:box|boxes} end at the border of their image; the objects may be cut off.",
        "Nothing to do if images in use are cut in the same way; otherwise cut them with more around the objects.",
    ),
    "crowdBoxes": Rule(
        _I,
        "{count:box is|boxes are} marked iscrowd: training skips crowds, and evaluation ignores detections in them.",
        "Nothing to do if this is intended.",
    ),
    "imagesWithoutBoxes": Rule(
        _I, "{count:image has|images have} no boxes: background only.", "Nothing to do if this is intended."
    ),
    "imageIdsShifted": Rule(
        _I,
        "Image ids overlap with those of an earlier file; {shift} is added to them in the snapshot.",
        "Nothing to do.",
    ),
}

COMPARISON_RULES: dict[str, Rule] = {
    "testImagesInTraining": Rule(
        _W,
        "{count:test image is|test images are} also in the training dataset: {exact} exactly, {near} nearly.",
        "Take them out of one of the datasets; a model looks better on them than it is.",
    ),
    "categoryOnlyInTraining": Rule(
        _W,
        "The test dataset has no image of {names}.",
        "Add test images of it; nothing is measured for it otherwise.",
    ),
    "categoryOnlyInTest": Rule(
        _W,
        "The training dataset has no image of {names}.",
        "Add training images of it, or leave it out of the test dataset; a model can never be right on them.",
    ),
    "categoriesSpeltDifferently": Rule(
        _W,
        "The training dataset writes {training!r}, the test dataset {test!r}.",
        "Write the name in one way; a model treats the two as different.",
    ),
    "labelShift": Rule(
        _W,
        "The share of {category!r} is {training:.1%} in the training dataset and {test:.1%} in the test dataset.",
        "Choose the test images as images will come in use; overall accuracy depends on the shares.",
    ),
    "sizesDiffer": Rule(
        _W,
        "The images of the training dataset are {training} in the median, those of the test dataset {test}.",
        "Take the test images as images will come in use, from the same source and scaled in the same way.",
    ),
    "annotationKindsDiffer": Rule(
        _W,
        "The training dataset is for {training}, the test dataset for {test}.",
        "Compare datasets of the same kind; a model of one cannot be measured on the other.",
    ),
    "fingerprintsMissing": Rule(
        _I,
        "{dataset} was registered by a version that could not tell similar images; only equal files were compared.",
        "Register it again to find similar images too.",
    ),
}
