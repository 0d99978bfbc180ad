"""The codes of findings: how severe each is, what it says and what to do. docs/findings.md lists them."""

from services.dataset.dataset_rules import COMPARISON_RULES, DATASET_RULES
from services.dataset.rule import Rule, Severity

_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO

FILE_RULES: dict[str, Rule] = {
    "annotationFileMissing": Rule(_E, "The annotation file is no longer in the store.", "Upload it again.", True),
    "annotationFileTooLarge": Rule(
        _E,
        "The annotation file has {size_bytes:byte|bytes}, more than the limit of {limit}.",
        "Split it into up to 10 files.",
        True,
    ),
    "annotationFileNotJson": Rule(
        _E, "Not JSON at line {line}, column {column}: {problem}.", "Repair the file, or export it again.", True
    ),
    "annotationFileNotFinite": Rule(
        _E,
        "{token} at line {line}, column {column} is not a JSON number.",
        "Replace it with a finite number, or omit the field.",
        True,
    ),
    "annotationFileNotCoco": Rule(
        _E, "Not a COCO file: {problem}.", "Write `images`, `annotations` and `categories` as COCO defines them.", True
    ),
    "categoriesMissing": Rule(_E, "The file declares no categories.", "List them under `categories`.", True),
    "categoryNameMissing": Rule(
        _E,
        "Category {category_id} has no name, or one with more than 256 characters.",
        "Give it a name of up to 256 characters.",
        True,
    ),
    "categoryDuplicateId": Rule(
        _E, "Category id {category_id} is declared twice, as {first!r} and as {second!r}.", "Use each id once.", True
    ),
    "categoryNameInvalid": Rule(
        _E,
        "The name {name!r} of category {category_id} {fault}.",
        "Remove the character from the name.",
        True,
    ),
    "categoriesMerged": Rule(
        _W, "The categories {first} and {second} share the name {category!r} and count as one.", "Keep one of them."
    ),
    "categoriesUnused": Rule(
        _I,
        "{count:category without annotations was|categories without annotations were} left out: {names}.",
        "Nothing to do, unless annotations are missing.",
    ),
    "valuesConverted": Rule(
        _I,
        "{count:entry has|entries have} numbers written as strings or fractions; they were read as they are meant.",
        "Nothing to do.",
    ),
    "idsReplaced": Rule(
        _I,
        "{count:id|ids} in `{section}` that are missing, negative, too large or not whole numbers were replaced.",
        "Nothing to do; findings name the new ids.",
    ),
    "tooManyCategories": Rule(
        _E,
        "{count:category is|categories are} more than the limit of {limit} for {kind} ({setting}).",
        "Merge or drop categories.",
        True,
    ),
    "annotationsMissing": Rule(
        _W, "The file has no annotations.", "List them under `annotations`, unless all images are background."
    ),
    "imageDuplicateId": Rule(
        _E, "Image id {image} is used by both {first!r} and {second!r}.", "Give every image a unique id.", True
    ),
    "annotationDuplicateId": Rule(
        _W,
        "{count:annotation has|annotations have} the id of another one, for example {annotation}.",
        "Give every annotation a unique id; findings name them by it.",
    ),
    "categoryUndeclared": Rule(
        _E,
        "The annotation's category {category_id} is not declared under `categories`.",
        "Declare the category, or correct the annotation's category_id.",
        True,
    ),
    "boxUnitsDiffer": Rule(
        _E,
        "The boxes of this file are in {found}, those of earlier files in {expected}.",
        "Write the boxes of all files in pixels, or all as fractions 0..1, or register two datasets.",
        True,
    ),
    "boxUnitsMixed": Rule(
        _E,
        "Box {box} is in {found}, but most boxes of the file are in {expected}.",
        "Write all boxes in pixels, or all as fractions 0..1.",
        True,
    ),
    "boxesLikeCorners": Rule(
        _E,
        "The boxes look like corners [x1, y1, x2, y2]: {support} of {total:box fits|boxes fit} the image only so, "
        "{contradicted} only as [x, y, width, height].",
        "Register the file again with `--boxes xyxy`, or write `[x, y, width, height]`.",
        True,
    ),
    "boxesLikeCentres": Rule(
        _E,
        "The boxes look like YOLO's, with the centre in place of the corner: {support} of {total:box fits|boxes fit} "
        "the image only so, {contradicted} only as [x, y, width, height].",
        "Register the file again with `--boxes cxcywh`, or write x and y of the left top corner.",
        True,
    ),
    "boxesLikeCornersYx": Rule(
        _E,
        "The boxes look like corners with y before x, [y1, x1, y2, x2]: {support} of {total:box fits|boxes fit} the "
        "image only so, {contradicted} only as [x, y, width, height].",
        "Register the file again with `--boxes yxyx`, or write `[x, y, width, height]`.",
        True,
    ),
    "boxesTransposed": Rule(
        _E,
        "The boxes look as if y came before x: {support} of {total:box fits|boxes fit} the image only so, "
        "{contradicted} only with x before y.",
        "Write x before y, and the width before the height.",
        True,
    ),
    "boxesLikePercent": Rule(
        _E,
        "The boxes look like percent of the image's sides: {total:box ends|boxes all end} within 100 pixels of larger "
        "images.",
        "Divide their numbers by 100, or write them in pixels.",
        True,
    ),
    "boxesFromBottom": Rule(
        _E,
        "The boxes look as if y were counted from the bottom: {support} of {total:box fits|boxes fit} the image only "
        "so, {contradicted} only with y from the top.",
        "Write y as the distance of the box's top edge from the top of the image.",
        True,
    ),
}

ANNOTATION_RULES: dict[str, Rule] = {
    "annotationUnknownImage": Rule(
        _E, "The annotation refers to image {image}, which is not listed.", "List the image, or drop the annotation."
    ),
    "annotationValueInvalid": Rule(
        _E, "The annotation's {field} is {value}, not {expected}.", "Correct the value, or drop the annotation."
    ),
    "annotationWithoutCategory": Rule(_E, "The annotation has no category_id.", "Give it a category_id."),
    "boxMissing": Rule(
        _E,
        "The annotation has no bbox; the service makes none from a segmentation.",
        "Give it `bbox: [x, y, width, height]`. `sightline datasets create` does, if its outline or mask is intact.",
    ),
    "boxMalformed": Rule(_E, "bbox {problem}.", "Write `[x, y, width, height]`, four finite numbers."),
    "boxEmpty": Rule(_E, "Box {box} has a width or height that is not positive.", "Redraw the box, or drop it."),
    "boxOutOfFrame": Rule(_E, "Box {box} lies mostly outside the {frame} image.", "Redraw the box, or drop it."),
    "boxSidesSwapped": Rule(
        _E,
        "Box {box} does not fit the {frame} image but fits {swapped}: width and height are swapped.",
        "Write x and width along the width of the upright image.",
    ),
    "boxAsCorners": Rule(
        _E,
        "Box {box} does not fit the {frame} image; it looks like corners [x1, y1, x2, y2].",
        "Write `[x, y, width, height]`.",
    ),
    "boxClipped": Rule(
        _W,
        "Box {box} extends {over:.4g} px beyond the {frame} image; it was clipped to {clipped}.",
        "Check the box.",
    ),
    "boxTiny": Rule(
        _W,
        "Box {box} is only {pixels:.2g} px across once the image is scaled to {side} px for detectors.",
        "Split the image into tiles so that objects are larger, or drop the box.",
    ),
    "boxRepeated": Rule(
        _W, "The image has the {category!r} box {box} more than once; one was kept.", "Drop this annotation."
    ),
    "boxDoubled": Rule(
        _W,
        "The {category!r} box is nearly the same as that of annotation {first}: {overlap:.0%} of their area is shared.",
        "Drop one of the two, if they are of one object.",
    ),
    "boxCategoriesDiffer": Rule(
        _W,
        "The box is labelled {category!r}, the one of annotation {first} in the same place {other_category!r}.",
        "Drop the one whose category is wrong.",
    ),
    "boxCoversImage": Rule(
        _W,
        "The {category!r} box covers the whole image.",
        "Draw it around the object, or register for classification if each image shows one object.",
    ),
    "tagRepeated": Rule(_W, "The image has the category {category!r} twice.", "Keep one of the annotations."),
}

IMAGE_RULES: dict[str, Rule] = {
    "imagePathMissing": Rule(_E, "The image has no file_name.", "Give it a file_name relative to the COCO file."),
    "imagePathInvalid": Rule(
        _E,
        "The path {path!r} {problem}.",
        "Use a path relative to the COCO file's folder, with `/` as separator, or an s3:// uri of the store.",
    ),
    "imageSideInvalid": Rule(
        _W, "The image's {side} is {value}, not a number; it was ignored.", "Correct the value, or leave it out."
    ),
    "imageMissing": Rule(_E, "There is no file at {uri} in the store{similar}.", "Upload it, or correct its path."),
    "imageTooLarge": Rule(_E, "The image has more than {limit:byte|bytes}.", "Scale it down or compress it more."),
    "imageSidesInvalid": Rule(_E, "The image {problem}.", "Scale or pad it, or drop it."),
    "imageUndecodable": Rule(_E, "The image {problem}.", "Replace it with an intact file of a supported format."),
    "imageUntagged": Rule(_E, "The image has no usable tag.", "Annotate it with one category, or drop it."),
    "imageSeveralTags": Rule(
        _E, "The image has {count} different tags: {categories}.", "Keep one of them, or register for object detection."
    ),
    "imageTooManyBoxes": Rule(
        _E,
        "The image has {count:box|boxes}, more than {limit}.",
        "Split it into tiles, or raise SIGHTLINE_MAX_REGIONS.",
    ),
    "imageFrameUnknown": Rule(
        _E,
        "The file says {declared}, the image is {actual}: it is unclear which size its boxes refer to.",
        "Annotate the image at its actual size.",
    ),
    "imageSidesDiffer": Rule(
        _W,
        "The file says {declared}, the image is {actual}; its boxes were scaled.",
        "Correct width and height in the file.",
    ),
    "imageSidesSwapped": Rule(
        _W,
        "The file says {declared}, the image is {actual}: width and height are swapped. Its boxes fit and were kept.",
        "Swap width and height in the file.",
    ),
    "imageBoxesTurned": Rule(
        _W,
        "The boxes were drawn before EXIF orientation {orientation} was applied; they were transformed with the image.",
        "Check a few boxes of this image.",
    ),
    "imageOriented": Rule(_I, "EXIF orientation {orientation} was applied.", "Nothing to do."),
    "imageOrientationInvalid": Rule(
        _I, "The EXIF orientation is {value}, not 1 to 8; it was ignored.", "Check that the image is upright."
    ),
    "imageExtensionWrong": Rule(
        _I, "The file is a {format}, whatever its extension says.", "Nothing to do here; other programs may refuse it."
    ),
    "imageMetadataIgnored": Rule(
        _I,
        "Damaged or oversized metadata was ignored ({parts}); the pixels are unaffected.",
        "Nothing to do; save the image without metadata if other programs refuse it.",
    ),
    "imageCutOff": Rule(
        _W, "The end of the file is missing: {lack}.", "Replace it with an intact copy if there is one."
    ),
    "imageDepthJudged": Rule(
        _W,
        "All samples fit {bits} of the 16 bits they are stored in, and were stretched accordingly.",
        "Check the brightness; if it is wrong, save the image with 8 bits, or with samples that use all 16.",
    ),
    "imageAlphaIgnored": Rule(
        _W, "The image is transparent throughout; its transparency was ignored.", "Save the image without transparency."
    ),
    "imageBandsIgnored": Rule(
        _W,
        "{bands:band is|bands are} neither colour nor declared as transparency; only the colours are used.",
        "Nothing to do if the colours suffice; save what matters as RGB.",
    ),
    "imageBlank": Rule(_W, "The image has one colour only, {colour}.", "Drop it, unless that is what it should show."),
    "imageDark": Rule(
        _W,
        "The image is nearly black: hardly a pixel is brighter than {level} of 255.",
        "Check the file; brighten or drop it, unless images in use are as dark.",
    ),
    "imageBright": Rule(
        _W,
        "The image is nearly white: hardly a pixel is darker than {level} of 255.",
        "Check the file; darken or drop it, unless images in use are as bright.",
    ),
    "imageLowContrast": Rule(
        _W,
        "The image has hardly any contrast: nearly all pixels are within {levels} of 256 levels of brightness.",
        "Check the file; drop it if nothing can be seen on it.",
    ),
    "imageBlurred": Rule(
        _W,
        "The image is blurred: even its sharpest edges are {width} of its longer side across.",
        "Drop it, unless images in use are as blurred.",
    ),
    "imageLowResolution": Rule(
        _I, "The image measures only {width} x {height}, in pixels.", "Use a larger original if there is one."
    ),
    "imageAspectExtreme": Rule(
        _I,
        "The image is very long and narrow, {width} x {height}: networks see it much reduced, or only its middle.",
        "Split it into parts.",
    ),
    "imageAnimated": Rule(
        _W, "The file has several frames or pages; only the first is used.", "Save the others as files of their own."
    ),
    "imageScaled": Rule(_I, "The {width} x {height} image was scaled down to fit {limit}.", "Nothing to do."),
    "imageUriIgnored": Rule(
        _I,
        "{count:uri outside the store was|uris outside the store were} ignored in favour of file_name.",
        "Nothing to do.",
    ),
}

RULES = FILE_RULES | ANNOTATION_RULES | IMAGE_RULES | DATASET_RULES | COMPARISON_RULES


# An annotation with one of these is left out of the snapshot.
ANNOTATION_ERRORS = (
    "annotationUnknownImage",
    "annotationValueInvalid",
    "annotationWithoutCategory",
    "boxMissing",
    "boxMalformed",
    "boxEmpty",
    "boxOutOfFrame",
    "boxSidesSwapped",
    "boxAsCorners",
)
