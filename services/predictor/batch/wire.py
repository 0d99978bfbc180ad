"""Translates between the contract's messages and batch predictions."""

from services.kit.blobs import to_uri
from services.kit.records import Versioned
from services.kit.status import failure_to_status, to_duration, to_timestamp
from services.predictor.batch.app import NewBatch
from services.predictor.batch.domain import BatchRecord
from services.predictor.batch.states import State
from sightline.v1 import batch_prediction_pb2 as pb
from sightline.v1 import prediction_service_pb2 as service_pb


def new_batch(request: service_pb.CreateBatchPredictionRequest) -> NewBatch:
    """The batch prediction to create."""
    new = request.batch_prediction
    return NewBatch(
        id=request.batch_prediction_id,
        model_name=new.model_name,
        input_uri_prefix=new.input_uri_prefix,
        dataset_name=new.dataset_name,
        output_uri_prefix=new.output_uri_prefix,
        score_threshold=new.score_threshold if new.HasField("score_threshold") else None,
        max_results=new.max_results if new.HasField("max_results") else None,
        use_suggested_thresholds=new.use_suggested_thresholds,
        display_name=new.display_name,
        request_id=request.request_id,
    )


def batch_message(found: Versioned[BatchRecord], bucket: str) -> pb.BatchPrediction:
    """A batch prediction as callers see it."""
    record, source = found.value, found.value.source
    message = pb.BatchPrediction(
        name=record.name,
        display_name=record.display_name,
        model_name=record.bundle.model_name,
        model_version=record.bundle.version,
        input_uri_prefix=to_uri(bucket, source.prefix) if source.prefix else "",
        dataset_name=source.dataset,
        dataset_version=source.version,
        output_uri_prefix=to_uri(bucket, record.output),
        score_threshold=record.score_threshold,
        max_results=record.max_results,
        use_suggested_thresholds=record.use_suggested_thresholds,
        state=pb.BatchPrediction.State.Value(record.state),
        progress=_progress(record),
        cost=to_duration(record.cost),
        create_time=to_timestamp(record.create_time),
        start_time=to_timestamp(record.start_time),
        end_time=to_timestamp(record.end_time),
        update_time=to_timestamp(record.update_time),
        etag=found.etag if found.revision else "",
    )
    if record.error and record.state is State.FAILED:  # before that, results are being written
        message.error.CopyFrom(failure_to_status(record.error))
    for output in record.outputs:
        uri = to_uri(bucket, output.key)
        message.result_uris.append(uri)
        message.result_files.add(
            file_name=output.file_name, uri=uri, size_bytes=output.size_bytes, sha256=output.sha256
        )
    return message


def _progress(record: BatchRecord) -> pb.BatchPredictionProgress:
    tally = record.tally
    return pb.BatchPredictionProgress(
        images_done=tally.done,
        images_failed=tally.failed,
        images_total=record.images_total,
        fraction=record.fraction,
    )
