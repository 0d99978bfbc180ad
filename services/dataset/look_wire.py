"""Translates comparisons of two datasets, and samples of one, into the contract's messages."""

from services.dataset.compare import ComparisonPage, Matched, Pair, Sizes
from services.dataset.samples import Sample, Samples
from services.dataset.wire import finding_message
from sightline.v1 import dataset_service_pb2 as pb


def comparison_message(page: ComparisonPage) -> pb.CompareDatasetsResponse:
    """The page's message; what concerns the whole comparison is on the first page."""
    whole = page.whole
    message = pb.CompareDatasetsResponse(
        pairs=[_pair(pair) for pair in page.pairs],
        next_page_token=page.next_token,
        exact_count=whole.exact_count,
        near_count=len(whole.pairs) - whole.exact_count,
    )
    if page.is_first:
        message.categories.extend(_category(one) for one in whole.categories)
        message.training_sizes.CopyFrom(_sizes(whole.training_sizes))
        message.test_sizes.CopyFrom(_sizes(whole.test_sizes))
        message.findings.extend(finding_message(finding) for finding in whole.findings)
    return message


def _pair(pair: Pair) -> pb.ImagePair:
    return pb.ImagePair(
        training_file=pair.training_file,
        training_image_id=pair.training_id,
        test_file=pair.test_file,
        test_image_id=pair.test_id,
        distance=pair.distance,
        exact=pair.exact,
    )


def _category(one: Matched) -> pb.CategoryComparison:
    message = pb.CategoryComparison()
    if one.training:
        message.training_category = one.training.name
        message.training_image_count = one.training.image_count
        message.training_annotation_count = one.training.annotation_count
    if one.test:
        message.test_category = one.test.name
        message.test_image_count = one.test.image_count
        message.test_annotation_count = one.test.annotation_count
    return message


def _sizes(sizes: Sizes) -> pb.ImageSizes:
    return pb.ImageSizes(
        median_width=sizes.median_width,
        median_height=sizes.median_height,
        smallest_side=sizes.smallest_side,
        largest_side=sizes.largest_side,
    )


def samples_message(found: Samples, next_page_token: str, *, with_sizes: bool) -> pb.ListDatasetSamplesResponse:
    """A page of samples."""
    sizes = found.sizes if with_sizes else ()
    return pb.ListDatasetSamplesResponse(
        samples=[_sample(sample, found.categories) for sample in found.samples],
        next_page_token=next_page_token,
        sizes=[pb.ImageSize(width=width, height=height) for width, height in sizes],
    )


def _sample(sample: Sample, categories: tuple[str, ...]) -> pb.DatasetSample:
    record = sample.record
    return pb.DatasetSample(
        image_id=record.image_id,
        file=record.file_name,
        width=record.width,
        height=record.height,
        category=categories[record.labels[0]] if record.labels else "",
        boxes=[
            pb.SampleBox(x=box.x, y=box.y, width=box.w, height=box.h, category=categories[box.category])
            for box in record.boxes
        ],
        image=sample.image,
    )
