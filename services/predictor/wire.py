"""Translates between the contract's messages and the predictor's domain."""

from services.kit.errors import InvalidRequest
from services.kit.status import to_timestamp
from services.predictor.domain import ImageQuery, LoadedModel
from services.predictor.explanation import Explanation
from services.predictor.feedback_store import Kept
from services.predictor.results import Analysis, Object, Objects, PixelBox, Tag, Tags
from sightline.v1 import prediction_pb2, prediction_service_pb2


def query_from(message: prediction_service_pb2.AnalyzeImageRequest) -> ImageQuery:
    """The query in the request; InvalidRequest if it has no image."""
    image, uri = _source_of(message)
    return ImageQuery(
        model_name=message.model_name,
        image=image,
        uri=uri,
        score_threshold=message.score_threshold if message.HasField("score_threshold") else None,
        max_results=message.max_results if message.HasField("max_results") else None,
        use_suggested_thresholds=message.use_suggested_thresholds,
        coverage=message.coverage if message.HasField("coverage") else None,
        no_feedback=message.no_feedback,
    )


def explained_image(message: prediction_service_pb2.ExplainImageRequest) -> ImageQuery:
    """The image to explain; InvalidRequest if there is none."""
    image, uri = _source_of(message)
    return ImageQuery(message.model_name, image, uri, score_threshold=None, max_results=None)


def explanation_to(made: Explanation) -> prediction_service_pb2.ExplainImageResponse:
    """The response."""
    return prediction_service_pb2.ExplainImageResponse(
        model_version=made.model_version,
        metadata=prediction_pb2.ImageMetadata(width=made.width, height=made.height),
        tag=_tag_to(made.tag),
        columns=made.grid.columns,
        rows=made.grid.rows,
        weights=made.weights,
        overlay_png=made.overlay_png,
    )


def analysis_to(analysis: Analysis) -> prediction_pb2.AnalyzeImageResponse:
    """The response; its protobuf JSON is what Azure's callers parse."""
    return prediction_pb2.AnalyzeImageResponse(
        model_version=analysis.model_version,
        metadata=prediction_pb2.ImageMetadata(width=analysis.width, height=analysis.height),
        custom_model_result=_result_to(analysis),
    )


def _source_of(
    message: prediction_service_pb2.AnalyzeImageRequest | prediction_service_pb2.ExplainImageRequest,
) -> tuple[bytes | None, str]:
    """The image's bytes, or None and its uri; InvalidRequest if the request has neither."""
    if message.WhichOneof("image_source") is None:
        raise InvalidRequest(field="image", problem="neither image nor uri is set; set one of them")
    return message.image if message.HasField("image") else None, message.uri


def _result_to(analysis: Analysis) -> prediction_pb2.CustomModelResult:
    """Tags or objects; an empty result is present, not omitted."""
    result = analysis.result
    if isinstance(result, Tags):
        return prediction_pb2.CustomModelResult(tags_result=_tags_to(result))
    objects = [_object_to(number, one) for number, one in enumerate(result.values, 1)]
    return prediction_pb2.CustomModelResult(objects_result=prediction_pb2.ObjectsResult(values=objects))


def _tags_to(tags: Tags) -> prediction_pb2.TagsResult:
    message = prediction_pb2.TagsResult(values=[_tag_to(tag) for tag in tags.values])
    if found := tags.prediction_set:
        message.prediction_set.coverage = found.coverage
        message.prediction_set.categories.extend(found.names)
        message.prediction_set.calibration_image_count = found.calibration_images
    return message


def _object_to(number: int, one: Object) -> prediction_pb2.DetectedObject:
    box = prediction_pb2.BoundingBox(x=one.box.x, y=one.box.y, w=one.box.w, h=one.box.h)
    return prediction_pb2.DetectedObject(id=str(number), bounding_box=box, tags=[_tag_to(one.tag)])


def _tag_to(tag: Tag) -> prediction_pb2.Tag:
    return prediction_pb2.Tag(name=tag.name, confidence=tag.confidence)


def suggestion_to(kept: Kept, image: bytes) -> prediction_service_pb2.SuggestImagesResponse:
    """The message of a kept image."""
    marks = [(mark, Tag(mark.name, mark.confidence)) for mark in kept.marks]
    objects = tuple(Object(PixelBox(*mark.box), tag) for mark, tag in marks if mark.box)
    result = Objects(objects) if kept.detects else Tags(tuple(tag for _, tag in marks))
    return prediction_service_pb2.SuggestImagesResponse(
        image_id=kept.id,
        image=image,
        extension=kept.extension,
        create_time=to_timestamp(kept.time),
        uncertainty=kept.uncertainty,
        prediction=analysis_to(Analysis(kept.model_version, kept.width, kept.height, result)),
    )


def loaded_model_to(model: LoadedModel) -> prediction_pb2.LoadedModel:
    """The loaded model's message."""
    return prediction_pb2.LoadedModel(
        model_name=model.name,
        model_version=model.version,
        size_bytes=model.size_bytes,
        load_time=to_timestamp(model.load_time),
        last_used_time=to_timestamp(model.last_used_time),
        use_count=model.use_count,
        pinned=model.kept,
    )
