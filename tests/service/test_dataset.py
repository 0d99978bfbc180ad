"""The dataset service as a caller sees it: register, read, list, update, watch, delete, upload."""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode
from grpc.aio import AioRpcError

from services.dataset import metrics
from services.dataset.settings import DatasetSettings
from services.dataset.uploaded_files import FOLDER
from services.kit.blobs import delete_prefix
from services.kit.errors import BlobNotFound
from services.vision.snapshot import Box, read_index, read_manifest, read_record
from sightline.v1 import dataset_pb2 as pb
from sightline.v1 import dataset_service_pb2 as service_pb
from sightline.v1 import finding_pb2
from tests.support.datasets import URI, World, coco, make_image, refused, rotated, running, tagged
from tests.support.waiting import eventually

CLASSES = pb.Dataset.IMAGE_CLASSIFICATION


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running(World()) as world:
        yield world


async def listing(world: World, size: int = 0, token: str = "") -> Any:
    return await world.stub.ListDatasets(service_pb.ListDatasetsRequest(page_size=size, page_token=token))


async def boxes_of(world: World, dataset: pb.Dataset) -> tuple[Box, ...]:
    """The boxes of the snapshot's only image."""
    manifest = read_manifest(await world.blobs.get(dataset.snapshot_uri.removeprefix("s3://sightline/")))
    return read_index(await world.blobs.get(manifest.shards[0].index_key)).records[0].boxes


# Registering.


async def test_a_good_dataset_becomes_ready_with_a_snapshot_that_holds_its_images(world: World) -> None:
    described, files = tagged(6)
    dataset = await world.register(described, files)
    assert dataset.state == pb.Dataset.READY
    assert (dataset.stats.image_count, dataset.stats.annotation_count, dataset.stats.category_count) == (6, 6, 2)
    assert [(c.name, c.image_count) for c in dataset.stats.categories] == [("c1", 3), ("c2", 3)]
    assert dataset.stats.byte_count == sum(map(len, files.values()))
    assert (dataset.progress.fraction, dataset.progress.images_done, dataset.progress.images_total) == (1, 6, 6)
    manifest = read_manifest(await world.blobs.get(dataset.snapshot_uri.removeprefix("s3://sightline/")))
    assert manifest.digest == dataset.snapshot_digest
    shard = manifest.shards[0]
    pack, index = await world.blobs.get(shard.key), read_index(await world.blobs.get(shard.index_key))
    assert hashlib.sha256(pack).hexdigest() == shard.sha256
    for record in index.records:
        assert read_record(pack, record, verify=True) == files[record.file_name]


async def test_the_same_files_give_the_same_digest_however_they_are_cut_into_chunks() -> None:
    digests = set[str]()
    for size in (1, 3, 100):
        async with running(World(settings=DatasetSettings(chunk_images=size))) as world:
            digests.add((await world.register(*tagged(7))).snapshot_digest)
    assert len(digests) == 1


async def test_several_files_merge_their_categories_and_keep_their_images_apart(world: World) -> None:
    first, files = tagged(4)
    second = coco([{"id": 1, "file_name": "x.png"}], [{"id": 1, "image_id": 1, "category_id": 2}], ["c9", "c1"])
    await world.put(first, files)
    await world.put(second, {"x.png": make_image(70, 70)}, key="uploads/u1/second.json")
    await world.stub.CreateDataset(world.request(uris=[URI, "s3://sightline/uploads/u1/second.json"]))
    await world.work()
    dataset = await world.get()
    assert dataset.state == pb.Dataset.READY
    assert [(c.name, c.image_count) for c in dataset.stats.categories] == [("c1", 3), ("c2", 2)]
    assert "4 is added" in (await world.found("imageIdsShifted")).message


async def test_relative_boxes_are_detected_and_become_pixels(world: World) -> None:
    mark = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0.1, 0.2, 0.5, 0.8005]}
    described = coco([{"id": 1, "file_name": "a.png"}], [mark])
    dataset = await world.register(described, {"a.png": make_image(200, 100)}, kind="OBJECT_DETECTION")
    assert (dataset.state, dataset.box_convention) == (pb.Dataset.READY, pb.Dataset.RELATIVE)
    assert await boxes_of(world, dataset) == (Box(20, 20, 100, 80, 0),)


async def test_boxes_of_an_exif_rotated_image_refer_to_the_upright_image(world: World) -> None:
    mark = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 150, 20, 30]}
    described = coco([{"id": 1, "file_name": "a.jpg", "width": 100, "height": 200}], [mark])
    dataset = await world.register(described, {"a.jpg": rotated(200, 100, 6)}, kind="OBJECT_DETECTION")
    assert await boxes_of(world, dataset) == (Box(10, 150, 20, 30, 0),)


async def test_boxes_drawn_before_the_rotation_are_turned_with_the_image(world: World) -> None:
    mark = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [150, 10, 30, 20]}
    described = coco([{"id": 1, "file_name": "a.jpg", "width": 200, "height": 100}], [mark])
    dataset = await world.register(described, {"a.jpg": rotated(200, 100, 6)}, kind="OBJECT_DETECTION")
    assert (await world.found("imageBoxesTurned")).severity == finding_pb2.Finding.WARNING
    assert await boxes_of(world, dataset) == (Box(70, 150, 20, 30, 0),)


async def test_boxes_of_a_declared_larger_copy_are_scaled(world: World) -> None:
    mark = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [100, 50, 200, 100]}
    described = coco([{"id": 1, "file_name": "a.png", "width": 400, "height": 200}], [mark])
    dataset = await world.register(described, {"a.png": make_image(200, 100)}, kind="OBJECT_DETECTION")
    assert await boxes_of(world, dataset) == (Box(50, 25, 100, 50, 0),)
    assert "The file says 400 x 200, the image is 200 x 100" in (await world.found("imageSidesDiffer")).message


async def test_an_existing_name_is_refused(world: World) -> None:
    await world.register(*tagged(4))
    async with refused(StatusCode.ALREADY_EXISTS, "DatasetAlreadyExists", "datasets/pets exists already"):
        await world.stub.CreateDataset(world.request())


async def test_a_repeated_request_returns_the_dataset_that_the_first_one_created(world: World) -> None:
    await world.put(*tagged(4))
    first = await world.stub.CreateDataset(world.request(request_id="r1"))
    assert await world.stub.CreateDataset(world.request(request_id="r1")) == first
    async with refused(StatusCode.ALREADY_EXISTS, "DatasetAlreadyExists", "exists already"):
        await world.stub.CreateDataset(world.request(request_id="r1", kind="OBJECT_DETECTION"))
    async with refused(StatusCode.ALREADY_EXISTS, "DatasetAlreadyExists", "exists already"):
        await world.stub.CreateDataset(world.request(request_id="r2"))


async def test_validate_only_checks_everything_and_creates_nothing(world: World) -> None:
    await world.put(*tagged(4))
    answer = await world.stub.CreateDataset(world.request(validate_only=True))
    assert (answer.name, answer.etag) == ("datasets/pets", "")
    async with refused(StatusCode.NOT_FOUND, "datasetNotFound", "datasets/pets does not exist"):
        await world.get()
    await world.stub.CreateDataset(world.request())
    async with refused(StatusCode.ALREADY_EXISTS, "DatasetAlreadyExists", "exists already"):
        await world.stub.CreateDataset(world.request(validate_only=True))


async def test_a_caller_can_ask_whether_a_name_is_free_before_it_uploads_anything(world: World) -> None:
    answer = await world.stub.CreateDataset(world.request(uris=[], validate_only=True))
    assert answer.name == "datasets/pets"
    async with refused(StatusCode.INVALID_ARGUMENT, "InvalidName", "my pets"):
        await world.stub.CreateDataset(world.request("my pets", uris=[], validate_only=True))
    async with refused(StatusCode.INVALID_ARGUMENT, "InvalidRequest", "0 uris given"):
        await world.stub.CreateDataset(world.request(uris=[]))


@pytest.mark.parametrize(
    ("change", "because", "says"),
    [
        ({"dataset_id": "no/slash"}, "InvalidName", "dataset_id"),
        ({"dataset": pb.Dataset(annotation_file_uris=[URI])}, "InvalidRequest", "annotation_kind"),
        ({"dataset": pb.Dataset(annotation_kind=CLASSES)}, "InvalidRequest", "name 1 to 10 different COCO files"),
        (
            {"dataset": pb.Dataset(annotation_kind=CLASSES, annotation_file_uris=[URI] * 2)},
            "InvalidRequest",
            "different",
        ),
        (
            {
                "dataset": pb.Dataset(
                    annotation_kind=CLASSES,
                    annotation_file_uris=[URI],
                    custom_properties=dict.fromkeys("abcdefghijk", "x"),
                )
            },
            "InvalidRequest",
            "11 entries are more than 10",
        ),
        (
            {"dataset": pb.Dataset(annotation_kind=CLASSES, annotation_file_uris=[URI], display_name="x" * 257)},
            "InvalidRequest",
            "display_name",
        ),
    ],
)
async def test_a_malformed_request_names_its_field(
    world: World, change: dict[str, Any], because: str, says: str
) -> None:
    await world.put(*tagged(4))
    request = world.request()
    for field, value in change.items():
        if isinstance(value, str):
            setattr(request, field, value)
        else:
            request.dataset.CopyFrom(value)
    async with refused(StatusCode.INVALID_ARGUMENT, because, says):
        await world.stub.CreateDataset(request)


async def test_more_images_than_the_quota_fail_the_dataset() -> None:
    async with running(World(settings=DatasetSettings(max_classification_images=3))) as world:
        dataset = await world.register(*tagged(4))
        assert dataset.state == pb.Dataset.FAILED
        assert "4 is more than the limit of 3 (SIGHTLINE_MAX_CLASSIFICATION_IMAGES)" in dataset.error.message


# Reading.


@pytest.mark.parametrize("rpc", ["Get", "Update", "Delete", "Watch", "ListFindings"])
async def test_an_unknown_dataset_is_not_found(world: World, rpc: str) -> None:
    name = "datasets/none"
    async with refused(StatusCode.NOT_FOUND, "datasetNotFound", f"{name} does not exist"):
        match rpc:
            case "Get":
                await world.get("none")
            case "Update":
                await world.stub.UpdateDataset(service_pb.UpdateDatasetRequest(dataset=pb.Dataset(name=name)))
            case "Delete":
                await world.stub.DeleteDataset(service_pb.DeleteDatasetRequest(name=name))
            case "Watch":
                async for _ in world.stub.WatchDataset(service_pb.WatchDatasetRequest(name=name)):
                    pass
            case _:
                await world.findings("none")


async def test_lists_page_by_name_and_see_what_was_just_written(world: World) -> None:
    await world.put(*tagged(2))
    for number in (3, 1, 2, 5, 4):
        await world.stub.CreateDataset(world.request(f"d{number}"))
    first = await listing(world, 2)
    second = await listing(world, 2, first.next_page_token)
    third = await listing(world, 2, second.next_page_token)
    names = [d.name for answer in (first, second, third) for d in answer.datasets]
    assert names == [f"datasets/d{number}" for number in range(1, 6)]
    assert not third.next_page_token
    async with refused(StatusCode.INVALID_ARGUMENT, "InvalidPageToken", "page_token"):
        await listing(world, 2, "nonsense")


async def test_more_than_100_categories_are_listed_only_in_the_full_view(world: World) -> None:
    await world.register(*tagged(101, categories=101))
    assert (await world.get()).stats.category_count == 101
    assert len((await world.get()).stats.categories) == 0
    assert len((await world.get(view=pb.Dataset.FULL)).stats.categories) == 101


async def test_findings_come_worst_first_in_pages_and_by_filter(world: World) -> None:
    described, files = tagged(20, categories=19)
    del files["images/20.png"]
    await world.register(described, files)
    everything = await world.findings()
    assert [f.severity for f in everything] == sorted(f.severity for f in everything)
    assert (everything[0].code, len(everything)) == ("imageMissing", 20)
    request = service_pb.ListFindingsRequest(parent="datasets/pets", page_size=7)
    paged = list[finding_pb2.Finding]()
    while True:
        answer = await world.stub.ListFindings(request)
        paged += answer.findings
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    assert paged == everything
    assert len(await world.findings(severity=finding_pb2.Finding.ERROR)) == 1
    assert len(await world.findings(codes=["categoryTooFewImages"])) == 19
    async with refused(StatusCode.INVALID_ARGUMENT, "InvalidPageToken", "ask again without a token"):
        await world.findings(page_token=request.page_token, codes=["imageMissing"])
    async with refused(StatusCode.INVALID_ARGUMENT, "InvalidRequest", "101 codes"):
        await world.findings(codes=[str(number) for number in range(101)])


# Changing and deleting.


async def test_an_update_changes_what_its_mask_names_and_the_second_of_two_with_one_etag_fails(world: World) -> None:
    dataset = await world.register(*tagged(4))

    def change(display_name: str, etag: str, *paths: str) -> Any:
        new = pb.Dataset(name=dataset.name, display_name=display_name, custom_properties={"a": "b"}, etag=etag)
        return world.stub.UpdateDataset(
            service_pb.UpdateDatasetRequest(dataset=new, update_mask=FieldMask(paths=paths))
        )

    updated = await change("One", dataset.etag, "display_name")
    assert (updated.display_name, dict(updated.custom_properties)) == ("One", {})
    assert updated.etag != dataset.etag
    async with refused(StatusCode.ABORTED, "EtagMismatch", "get it again and repeat"):
        await change("Two", dataset.etag, "display_name")
    async with refused(StatusCode.INVALID_ARGUMENT, "InvalidRequest", "'state' cannot be updated"):
        await change("Two", "", "state")
    assert dict((await change("", "")).custom_properties) == {"a": "b"}
    assert (await world.get()).display_name == "One"


async def test_a_deletion_removes_every_blob_except_the_uploads_and_frees_the_name(world: World) -> None:
    described, files = tagged(4)
    dataset = await world.register(described, files)
    async with refused(StatusCode.ABORTED, "EtagMismatch", "etag 1 was read"):
        await world.stub.DeleteDataset(service_pb.DeleteDatasetRequest(name=dataset.name, etag="1"))
    for etag in (dataset.etag, dataset.etag, ""):  # a call may be repeated
        await world.stub.DeleteDataset(service_pb.DeleteDatasetRequest(name=dataset.name, etag=etag))
        assert (await world.get()).state == pb.Dataset.DELETING
    async with refused(StatusCode.FAILED_PRECONDITION, "WrongState", "datasets/pets is DELETING"):
        await world.stub.UpdateDataset(service_pb.UpdateDatasetRequest(dataset=pb.Dataset(name=dataset.name)))
    await world.work()
    assert [blob.key async for blob in world.blobs.list("datasets/")] == []
    assert len([blob async for blob in world.blobs.list("uploads/")]) == 5
    again = await world.register(described, files)
    assert again.snapshot_digest == dataset.snapshot_digest
    assert again.snapshot_uri != dataset.snapshot_uri


async def test_a_dataset_can_be_read_while_its_blobs_are_being_removed(world: World) -> None:
    described, files = tagged(4)
    dataset = await world.register(described, files | {next(iter(files)): next(reversed(files.values()))})
    listing = service_pb.ListFindingsRequest(parent=dataset.name)
    assert (await world.stub.ListFindings(listing)).findings
    await world.stub.DeleteDataset(service_pb.DeleteDatasetRequest(name=dataset.name))
    await delete_prefix(world.blobs, "datasets/")
    full = await world.get(view=pb.Dataset.FULL)
    assert (full.state, full.stats) == (pb.Dataset.DELETING, dataset.stats)
    assert not (await world.stub.ListFindings(listing)).findings


async def test_what_is_read_of_a_dataset_that_is_deleted_meanwhile_is_of_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = await world.register(*tagged(4))
    get = world.blobs.get

    async def late(key: str, *place: int) -> bytes:
        monkeypatch.setattr(world.blobs, "get", get)
        await world.stub.DeleteDataset(service_pb.DeleteDatasetRequest(name=dataset.name))
        await delete_prefix(world.blobs, "datasets/")
        return await get(key, *place)

    monkeypatch.setattr(world.blobs, "get", late)
    async with refused(StatusCode.NOT_FOUND, "datasetNotFound", "does not exist"):
        await world.stub.ListDatasetSamples(service_pb.ListDatasetSamplesRequest(parent=dataset.name, per_category=1))
    assert (await world.get(view=pb.Dataset.FULL)).state == pb.Dataset.DELETING


async def test_a_deletion_ends_a_validation_in_progress(world: World) -> None:
    world.settings = DatasetSettings(chunk_images=2)
    await world.put(*tagged(6))
    await world.stub.CreateDataset(world.request())
    assert await world.step()
    assert await world.step()
    await world.stub.DeleteDataset(service_pb.DeleteDatasetRequest(name="datasets/pets"))
    await world.work()
    async with refused(StatusCode.NOT_FOUND, "datasetNotFound", "does not exist"):
        await world.get()
    assert [blob.key async for blob in world.blobs.list("datasets/")] == []


async def test_a_watch_starts_with_the_current_state_shows_progress_and_ends_with_the_result(world: World) -> None:
    world.settings = DatasetSettings(chunk_images=2)
    await world.put(*tagged(6))
    await world.stub.CreateDataset(world.request())
    seen = list[pb.Dataset]()

    async def follow() -> None:
        async for answer in world.stub.WatchDataset(service_pb.WatchDatasetRequest(name="datasets/pets")):
            seen.append(answer.dataset)

    task = asyncio.create_task(follow())
    await eventually(lambda: bool(seen))
    for images in (0, 2, 4, 6):
        await world.step()
        await eventually(lambda images=images: seen[-1].progress.images_done == images)
    await world.work()
    async with asyncio.timeout(30):
        await task
    assert (seen[0].state, seen[-1].state) == (pb.Dataset.VALIDATING, pb.Dataset.READY)
    fractions = [dataset.progress.fraction for dataset in seen]
    assert fractions == sorted(fractions)
    assert {2, 4, 6} <= {dataset.progress.images_done for dataset in seen}


async def test_a_watch_ends_with_not_found_when_the_dataset_is_deleted(world: World) -> None:
    await world.put(*tagged(2))
    await world.stub.CreateDataset(world.request())
    call = world.stub.WatchDataset(service_pb.WatchDatasetRequest(name="datasets/pets"))
    assert (await call.read()).dataset.state == pb.Dataset.VALIDATING
    await world.stub.DeleteDataset(service_pb.DeleteDatasetRequest(name="datasets/pets"))
    await world.work()
    async with refused(StatusCode.NOT_FOUND, "datasetNotFound", "datasets/pets does not exist"):
        while True:
            await call.read()


# Uploading.


async def test_uploaded_files_can_be_registered_and_a_second_stream_adds_to_the_first(world: World) -> None:
    described, files = tagged(4)
    answer = await world.upload({"train.json": described})
    assert (answer.upload_id, answer.base_uri) == ("u1", "s3://sightline/uploads/u1")
    assert answer.files[0].uri == URI
    await world.upload(files)
    await world.stub.CreateDataset(world.request())
    await world.work()
    assert (await world.get()).state == pb.Dataset.READY


async def test_an_upload_without_files_says_how_large_an_image_may_be(world: World) -> None:
    answer = await world.upload({})
    assert (list(answer.files), answer.max_image_bytes) == ([], world.settings.max_image_bytes)


@pytest.mark.parametrize(
    "path", ["../x.png", "a/../x.png", "/x.png", "a\\x.png", "a//x.png", "", "a\nb.png", "x" * 1025]
)
async def test_an_upload_path_that_leaves_its_upload_is_refused(world: World, path: str) -> None:
    async with refused(StatusCode.INVALID_ARGUMENT, "InvalidRequest", "file.path"):
        await world.upload({path: b"data"})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"sha256": "0" * 64}, "the received bytes have the digest"),
        ({"sha256": "0"}, "is not 64 lower-case hex digits"),
        ({"size_bytes": 3}, "more than the announced 3 bytes"),
        ({"size_bytes": 5}, "received 4 bytes, not the announced 5"),
    ],
)
async def test_a_file_that_differs_from_its_announcement_is_not_stored(
    world: World, wrong: dict[str, Any], says: str
) -> None:
    async with refused(StatusCode.INVALID_ARGUMENT, "InvalidRequest", says):
        await world.upload({"x.png": b"data"}, **wrong)
    with pytest.raises(BlobNotFound):
        await world.blobs.stat("uploads/u1/x.png")


async def test_an_image_that_is_too_large_is_refused_before_its_bytes(world: World) -> None:
    async with refused(StatusCode.RESOURCE_EXHAUSTED, "QuotaExceeded", "SIGHTLINE_MAX_IMAGE_BYTES"):
        await world.upload({"x.png": b"data"}, size_bytes=21 << 20)


async def test_an_upload_that_runs_out_of_disk_space_can_be_retried(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").symlink_to("/dev/full")
    monkeypatch.setattr(tempfile, "TemporaryDirectory", lambda **_: nullcontext(str(tmp_path)))
    async with refused(StatusCode.UNAVAILABLE, "Unavailable", "No space left"):
        await world.upload({"x.png": b"data"})


async def test_a_broken_stream_keeps_earlier_files_and_nothing_of_the_one_in_flight(world: World) -> None:
    files, first_is_stored = {"a.png": b"first", "b.png": b"second"}, asyncio.Event()

    async def broken() -> AsyncIterator[service_pb.UploadFilesRequest]:
        yield service_pb.UploadFilesRequest(header=service_pb.UploadFilesHeader(upload_id="u1"))
        for path, data in files.items():
            digest = hashlib.sha256(data).hexdigest()
            header = service_pb.FileHeader(path=path, sha256=digest, size_bytes=len(data))
            yield service_pb.UploadFilesRequest(file=header)
            yield service_pb.UploadFilesRequest(chunk=data[:5])
        await eventually(lambda: world.telemetry.value(metrics.UPLOADED) == 5)
        first_is_stored.set()
        await asyncio.sleep(60)

    call = world.stub.UploadFiles(broken())
    await first_is_stored.wait()
    call.cancel()
    await asyncio.sleep(0.1)
    stored = [blob.key async for blob in world.blobs.list("uploads/") if FOLDER not in blob.key]
    assert stored == ["uploads/u1/a.png"]


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "the first message must be the header"),
        ([{"chunk": b"x"}], "the first message must be the header"),
        ([{"header": {}}, {"chunk": b"x"}], "a file must be announced before its bytes"),
        ([{"header": {}}, {"header": {}}], "only the first message may be a header"),
        ([{"header": {}}, {}], "must have a header, file or chunk"),
        ([{"header": {"upload_id": "a/b"}}], "header.upload_id"),
    ],
)
async def test_messages_out_of_order_are_refused(world: World, messages: list[dict[str, Any]], says: str) -> None:
    async def parts() -> AsyncIterator[service_pb.UploadFilesRequest]:
        for message in messages:
            yield service_pb.UploadFilesRequest(**message)

    with pytest.raises(AioRpcError) as caught:
        await world.stub.UploadFiles(parts())
    assert caught.value.code() == StatusCode.INVALID_ARGUMENT
    assert says in (caught.value.details() or "")
