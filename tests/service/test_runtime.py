"""The server runtime and the channel, over real sockets: errors, ids, metrics, limits, health."""

import asyncio
import inspect
import string
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, ResourceInfo, RetryInfo
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from grpc_status.rpc_status import from_call

from services.infra.channel import open_channel
from services.kit import errors, log
from services.kit.errors import SightlineError
from sightline.client.transport.channel import OPTIONS, describe
from sightline.v1 import dataset_service_pb2, prediction_service_pb2
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub
from tests.support.logs import events
from tests.support.runtime import bare_channel, serving
from tests.support.servers import free_port

GET = dataset_service_pb2.GetDatasetRequest(name="datasets/birds")
WATCH = dataset_service_pb2.WatchDatasetRequest(name="datasets/birds")
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def every_error() -> list[SightlineError]:
    """An error of each class that has a template."""
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, SightlineError)]
    return [
        kind(**{name: f"the {name}" for _, name, _, _ in string.Formatter().parse(kind.template) if name})
        for kind in kinds
        if kind not in {SightlineError, errors.RemoteError}
    ]


def raising(error: BaseException):
    async def act(_request, _context):
        raise error

    return act


async def failure(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def health_of(channel) -> Any:
    return HealthStub(channel)


def reflection_of(channel) -> Any:
    return ServerReflectionStub(channel)


def details_of(error: grpc.aio.AioRpcError, kind):
    found = []
    call: Any = error
    for detail in from_call(call).details:
        message = kind()
        if detail.Unpack(message):
            found.append(message)
    return found


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
async def test_an_error_arrives_with_its_code_reason_message_and_variables(error):
    async with serving(raising(error)) as running, bare_channel(running.address) as channel:
        caught = await failure(DatasetServiceStub(channel).GetDataset(GET))
    assert caught.code().value[0] == error.code
    assert caught.details() == error.message
    (info,) = details_of(caught, ErrorInfo)
    assert (info.domain, info.reason, dict(info.metadata)) == ("sightline", error.reason, error.metadata)
    assert bool(details_of(caught, RetryInfo)) == error.retry
    assert bool(details_of(caught, QuotaFailure)) == isinstance(error, errors.QuotaExceeded)
    assert [info.resource_type for info in details_of(caught, ResourceInfo)] == [error.resource_type][
        : bool(error.resource_type)
    ]
    naming = errors.InvalidRequest | errors.InvalidName | errors.UnreadableUri
    has_field = bool(error.field_name) or isinstance(error, naming)
    assert bool(details_of(caught, BadRequest)) == has_field


@pytest.mark.parametrize(
    "error", [error for error in every_error() if not error.retry], ids=lambda error: type(error).__name__
)
async def test_our_channel_raises_the_error_that_the_other_service_raised(error):
    async with serving(raising(error)) as running, open_channel(running.address) as channel:
        with pytest.raises(SightlineError) as caught:
            await DatasetServiceStub(channel).GetDataset(GET)
    assert caught.value.failure() == error.failure()
    assert isinstance(error, type(caught.value)) or isinstance(caught.value, type(error))
    if type(error).__name__.lower() == error.reason.lower():
        assert type(caught.value) is type(error)


async def test_an_error_during_a_stream_follows_the_messages_already_sent():
    error = errors.DatasetNotFound(name="datasets/birds")
    async with serving(raising(error)) as running, open_channel(running.address) as channel:
        updates = aiter(DatasetServiceStub(channel).WatchDataset(WATCH))
        assert (await anext(updates)).dataset.name == "datasets/birds"
        with pytest.raises(errors.DatasetNotFound):
            await anext(updates)


async def test_the_caller_side_describes_an_error_in_plain_values():
    error = errors.InvalidRequest(field="model.display_name", problem="is longer than 63 characters.")
    async with serving(raising(error)) as running, bare_channel(running.address) as channel:
        rich = describe(await failure(DatasetServiceStub(channel).GetDataset(GET)))
    assert (rich.code, rich.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "InvalidRequest")
    assert rich.fields == {"model.display_name": error.message}
    assert rich.metadata == error.metadata


async def test_an_error_with_huge_variables_still_arrives():
    error = errors.InvalidRequest(field="x", problem="ü" * 100_000)
    async with serving(raising(error)) as running, bare_channel(running.address) as channel:
        rich = describe(await failure(DatasetServiceStub(channel).GetDataset(GET)))
    assert rich.reason == "InvalidRequest"
    assert rich.message.endswith("…")


async def test_an_unknown_exception_reveals_only_its_id_in_the_log(log_stream):
    async with serving(raising(ValueError("password=hunter2"))) as running, bare_channel(running.address) as channel:
        rich = describe(await failure(DatasetServiceStub(channel).GetDataset(GET)))
    assert rich.code is grpc.StatusCode.INTERNAL
    assert "hunter2" not in str(rich)
    (event,) = events(log_stream, "internal_error")
    assert event["error_id"] == rich.metadata["error_id"]
    assert event["exception"]["message"] == "password=hunter2"
    assert "runtime.py" in event["exception"]["traceback"]
    assert len(events(log_stream, "call")) == 1
    assert not events(log_stream, "library_message")


async def test_an_error_of_ours_in_a_task_group_is_unwrapped():
    group = ExceptionGroup("tasks", [errors.ModelNotFound(name="models/m")])
    async with serving(raising(group)) as running, bare_channel(running.address) as channel:
        assert describe(await failure(DatasetServiceStub(channel).GetDataset(GET))).reason == "ModelNotFound"


async def test_a_handlers_own_abort_passes_through(log_stream):
    async def act(_request, context):
        await context.abort(grpc.StatusCode.DATA_LOSS, "as it was")

    async with serving(act) as running, bare_channel(running.address) as channel:
        caught = await failure(DatasetServiceStub(channel).GetDataset(GET))
    assert (caught.code(), caught.details()) == (grpc.StatusCode.DATA_LOSS, "as it was")
    assert [line["code"] for line in events(log_stream, "call")] == ["DATA_LOSS"]
    assert not events(log_stream, "internal_error")


async def test_malformed_request_bytes_are_the_callers_error():
    async with serving() as running, bare_channel(running.address) as channel:
        call = channel.unary_unary("/sightline.v1.DatasetService/GetDataset")
        rich = describe(await failure(call(b"\xff\xff\xff")))
    assert (rich.code, rich.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "InvalidRequest")


async def test_a_request_id_is_passed_from_caller_to_handler_to_the_next_service_and_back(log_stream):
    seen = []

    async def inner_act(_request, _context):
        seen.append(log.request_id.get())

    async with serving(inner_act) as inner, open_channel(inner.address) as onward:

        async def outer_act(_request, _context):
            await DatasetServiceStub(onward).GetDataset(GET)

        async with serving(outer_act) as outer, bare_channel(outer.address) as channel:
            call = DatasetServiceStub(channel).GetDataset(GET, metadata=[("x-request-id", "from-the-caller")])
            await call
            assert (await call.trailing_metadata())["x-request-id"] == "from-the-caller"
    assert seen == ["from-the-caller"]
    assert {line["request_id"] for line in events(log_stream, "call")} == {"from-the-caller"}


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, '"}{'])
async def test_a_request_id_unfit_for_logs_is_replaced(given):
    async with serving() as running, bare_channel(running.address) as channel:
        call = DatasetServiceStub(channel).GetDataset(GET, metadata=[("x-request-id", given)])
        await call
        assert len((await call.trailing_metadata())["x-request-id"]) == 32


async def test_each_type_of_rpc_is_counted_with_the_names_of_go_grpc_middleware():
    async def act(request, _context):
        if "bad" in str(request):
            raise errors.InvalidRequest(field="name", problem="is bad.")

    async with serving(act) as running, bare_channel(running.address) as channel:
        datasets, predictions = DatasetServiceStub(channel), PredictionServiceStub(channel)
        for name in ("good", "bad"):
            upload = [
                dataset_service_pb2.UploadFilesRequest(header=dataset_service_pb2.UploadFilesHeader(upload_id=name))
            ]
            images = [prediction_service_pb2.AnalyzeImagesRequest(id=name)]
            for run in (
                lambda name=name: datasets.GetDataset(dataset_service_pb2.GetDatasetRequest(name=name)),
                lambda upload=upload: datasets.UploadFiles(iter(upload)),
                lambda name=name: drained(datasets.WatchDataset(dataset_service_pb2.WatchDatasetRequest(name=name))),
                lambda images=images: drained(predictions.AnalyzeImages(iter(images))),
            ):
                if name == "good":
                    await run()
                else:
                    assert (await failure(run())).code() is grpc.StatusCode.INVALID_ARGUMENT

        for kind, service, method, sent in (
            ("unary", "DatasetService", "GetDataset", 1),
            ("client_stream", "DatasetService", "UploadFiles", 1),
            ("server_stream", "DatasetService", "WatchDataset", 3),
            ("bidi_stream", "PredictionService", "AnalyzeImages", 1),
        ):
            labels = {"grpc_type": kind, "grpc_service": f"sightline.v1.{service}", "grpc_method": method}
            assert running.metric("grpc_server_started_total", **labels) == 2
            assert running.metric("grpc_server_handled_total", **labels, grpc_code="OK") == 1
            assert running.metric("grpc_server_handled_total", **labels, grpc_code="InvalidArgument") == 1
            assert running.metric("grpc_server_handling_seconds_count", **labels) == 2
            assert running.metric("grpc_server_msg_received_total", **labels) == 2
            assert running.metric("grpc_server_msg_sent_total", **labels) == sent


async def drained(call):
    return [message async for message in call]


async def test_a_cancelled_call_is_counted_as_canceled_and_its_handler_is_cancelled():
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def act(_request, _context):
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with serving(act) as running, bare_channel(running.address) as channel:
        call = DatasetServiceStub(channel).GetDataset(GET)
        await entered.wait()
        call.cancel()
        await asyncio.wait_for(cancelled.wait(), 5)
        labels = {"grpc_type": "unary", "grpc_service": "sightline.v1.DatasetService", "grpc_method": "GetDataset"}
        assert running.metric("grpc_server_handled_total", **labels, grpc_code="Canceled") == 1


async def test_a_response_to_a_caller_who_is_gone_is_no_error_of_the_service(log_stream):
    entered = asyncio.Event()

    async def act(_request, _context):
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise grpc.aio.InternalError from None  # as when the end comes during a write

    async with serving(act) as running, bare_channel(running.address) as channel:
        call = DatasetServiceStub(channel).WatchDataset(WATCH)
        await entered.wait()
        call.cancel()
    labels = {
        "grpc_type": "server_stream",
        "grpc_service": "sightline.v1.DatasetService",
        "grpc_method": "WatchDataset",
    }
    assert running.metric("grpc_server_handled_total", **labels, grpc_code="Canceled") == 1
    assert not events(log_stream, "internal_error") + events(log_stream, "library_message")


async def test_methods_that_do_not_exist_share_one_time_series():
    async with serving() as running, bare_channel(running.address) as channel:
        for number in range(5):
            rich = describe(await failure(channel.unary_unary(f"/made.Up/Method{number}")(b"")))
            assert (rich.code, rich.reason) == (grpc.StatusCode.UNIMPLEMENTED, "UnknownMethod")
        labels = {"grpc_type": "unary", "grpc_service": "unknown", "grpc_method": "unknown"}
        assert running.metric("grpc_server_handled_total", **labels, grpc_code="Unimplemented") == 5


async def test_a_message_of_nearly_24_mib_passes_and_one_of_25_does_not():
    async with serving() as running, bare_channel(running.address) as channel:
        stub = PredictionServiceStub(channel)
        mib = 1024 * 1024
        request = prediction_service_pb2.AnalyzeImageRequest(image=bytes(24 * mib - 100))
        assert (await stub.AnalyzeImage(request)).model_version == str(24 * mib - 100)
        too_large = prediction_service_pb2.AnalyzeImageRequest(image=bytes(25 * mib))
        assert (await failure(stub.AnalyzeImage(too_large))).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_unavailable_is_retried_even_with_a_large_message():
    attempts = []

    async def act(_request, _context):
        attempts.append(1)
        if len(attempts) < 3:
            raise errors.Unavailable(what="the store", problem="no route")

    async with serving(act) as running, open_channel(running.address) as channel:
        request = prediction_service_pb2.AnalyzeImageRequest(image=bytes(6_000_000))
        await PredictionServiceStub(channel).AnalyzeImage(request)
    assert len(attempts) == 3


async def test_a_stream_of_requests_is_not_retried():
    attempts = []

    async def act(_request, _context):
        attempts.append(1)
        raise errors.Unavailable(what="the store", problem="no route")

    async with serving(act) as running, grpc.aio.insecure_channel(running.address, options=OPTIONS) as channel:
        requests = iter([dataset_service_pb2.UploadFilesRequest(chunk=b"x")])
        assert (await failure(DatasetServiceStub(channel).UploadFiles(requests))).code() is grpc.StatusCode.UNAVAILABLE
    assert len(attempts) == 1


async def test_a_retried_deletion_whose_first_response_was_lost_succeeds():
    attempts = 0

    async def act(_request, _context):
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise errors.Unavailable(what="the connection", problem="it broke after the deletion")
        raise errors.DatasetNotFound(name="datasets/gone")

    async with serving(act) as running, open_channel(running.address) as channel:
        stub = DatasetServiceStub(channel)
        await stub.DeleteDataset(dataset_service_pb2.DeleteDatasetRequest(name="datasets/gone"))
        assert attempts == 2
        with pytest.raises(errors.DatasetNotFound):
            await stub.DeleteDataset(dataset_service_pb2.DeleteDatasetRequest(name="datasets/gone"))


@pytest.mark.usefixtures("quick_retries")
async def test_a_service_that_is_not_running_is_unavailable():
    async with open_channel("127.0.0.1:1") as channel:
        with pytest.raises(errors.Unavailable, match=r"127\.0\.0\.1:1"):
            await DatasetServiceStub(channel).GetDataset(GET)


async def test_a_unary_call_has_a_default_deadline():
    async with serving(lambda *_: asyncio.sleep(60)) as running, open_channel(running.address, 0.2) as channel:
        with pytest.raises(errors.RemoteError) as caught:
            await DatasetServiceStub(channel).GetDataset(GET)
    assert caught.value.code is errors.Code.DEADLINE_EXCEEDED


async def test_a_stream_ends_at_the_maximum_duration():
    async with (
        serving(lambda *_: asyncio.sleep(60), max_stream_seconds=0.2) as running,
        bare_channel(running.address) as channel,
    ):
        rich = describe(await failure(drained(DatasetServiceStub(channel).WatchDataset(WATCH))))
    assert (rich.code, rich.reason) == (grpc.StatusCode.UNAVAILABLE, "StreamExpired")


async def test_calls_beyond_the_limit_are_refused_but_health_is_answered():
    free = asyncio.Event()
    async with (
        serving(lambda *_: free.wait(), max_calls=2) as running,
        bare_channel(running.address) as channel,
    ):
        stub = DatasetServiceStub(channel)
        calls = [asyncio.ensure_future(stub.GetDataset(GET)) for _ in range(3)]
        done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        rich = describe(await failure(done.pop()))
        assert (rich.code, rich.reason) == (grpc.StatusCode.UNAVAILABLE, "Overloaded")
        await health_of(channel).Check(health_pb2.HealthCheckRequest())
        free.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(result, Exception) for result in results) == 1


async def test_health_follows_readiness_for_the_server_and_for_each_service(log_stream):
    state = {"ready": False}

    async def ready():
        return state["ready"]

    async with serving(ready=ready, patience_seconds=0.0) as running, bare_channel(running.address) as channel:
        stub = health_of(channel)

        async def status(service=""):
            return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status

        assert await status() == NOT_SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="sightline.v1.DatasetService"))
        assert (await watch.read()).status == NOT_SERVING
        state["ready"] = True
        assert (await watch.read()).status == SERVING
        assert await status() == SERVING
    assert all(line["level"] == "debug" for line in events(log_stream, "call"))


async def test_a_call_before_the_server_is_ready_waits_instead_of_failing():
    port, calls, answered = free_port(), [], []
    async with bare_channel(f"127.0.0.1:{port}") as channel:

        async def ready():
            if not calls:
                calls.append(asyncio.ensure_future(DatasetServiceStub(channel).GetDataset(GET, timeout=20)))
            answered.append(bool((await asyncio.wait(calls, timeout=0.2))[0]))
            return len(answered) > 1

        async with serving(ready=ready, port=port):
            assert (await calls[0]).name == "datasets/birds"
    assert answered[:2] == [False, False]


async def test_reflection_lists_the_services():
    async with serving() as running, bare_channel(running.address) as channel:
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
        (answer,) = await drained(reflection_of(channel).ServerReflectionInfo(iter(asked)))
    names = {service.name for service in answer.list_services_response.service}
    assert {"sightline.v1.DatasetService", "sightline.v1.PredictionService", "grpc.health.v1.Health"} <= names


async def test_a_draining_server_reports_it_finishes_calls_ends_watches_and_refuses_new_calls():
    entered, free = asyncio.Event(), asyncio.Event()

    async def act(_request, _context):
        entered.set()
        await free.wait()

    async with (
        serving(act, drain_seconds=2, grace_seconds=20) as running,
        bare_channel(running.address) as channel,
    ):
        stub = DatasetServiceStub(channel)
        running_call = asyncio.ensure_future(stub.GetDataset(GET))
        watch = asyncio.ensure_future(drained(stub.WatchDataset(WATCH)))
        await entered.wait()
        running.stop.set()
        await asyncio.sleep(0.1)
        assert (await health_of(channel).Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
        assert describe(await failure(watch)).reason == "Draining"
        async with bare_channel(running.address) as late:
            caught = await failure(DatasetServiceStub(late).GetDataset(GET, timeout=2))
        assert caught.code() is grpc.StatusCode.UNAVAILABLE
        assert not running_call.done()
        free.set()
        assert (await running_call).name == "datasets/birds"


async def test_a_call_that_outlasts_the_grace_ends_as_draining():
    async with (
        serving(lambda *_: asyncio.sleep(60), grace_seconds=0.2) as running,
        bare_channel(running.address) as channel,
    ):
        call = asyncio.ensure_future(DatasetServiceStub(channel).GetDataset(GET))
        await asyncio.sleep(0.1)
        running.stop.set()
        assert describe(await failure(call)).reason == "Draining"


async def test_a_call_whose_request_has_not_come_does_not_delay_the_shutdown_and_is_retryable():
    async def silence():
        await asyncio.Event().wait()
        yield b""

    async with serving(grace_seconds=25) as running, bare_channel(running.address) as channel:
        get = channel.stream_unary("/sightline.v1.DatasetService/GetDataset")
        call = asyncio.ensure_future(get(silence()))
        await health_of(channel).Check(health_pb2.HealthCheckRequest())  # by now its headers have arrived too
        running.stop.set()
        async with asyncio.timeout(5):
            assert describe(await failure(call)).reason == "Draining"
