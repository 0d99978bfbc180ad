"""Datasets in the studio: list, detail, findings, images, deletion, and how one begins."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from google.protobuf.duration_pb2 import Duration
from PIL import ExifTags, Image

from services.gateway.studio.images import PAGE, SCANNED
from services.gateway.studio.thumbnails import Thumbnails
from services.infra.http_body import Body
from services.kit.errors import DatasetAlreadyExists, DatasetNotFound
from sightline.v1.dataset_pb2 import CategoryStats, Dataset, DatasetProgress, DatasetStats, FindingCounts
from sightline.v1.dataset_service_pb2 import (
    ListDatasetsResponse,
    ListFindingsResponse,
    ReadImagesResponse,
    Snapshot,
    SnapshotBox,
    SnapshotCategory,
    SnapshotImage,
    UploadedFile,
    UploadFilesResponse,
    WatchDatasetResponse,
)
from sightline.v1.finding_pb2 import Finding
from sightline.v1.model_pb2 import Model, TrainingParameters
from sightline.v1.model_service_pb2 import BudgetOutlook, EstimateTrainingResponse
from sightline.v1.performance_pb2 import Interval
from tests.support.studio import browser

HOSTILE = "<script>alert(1)</script>\"'"
PNG = b"\x89PNG\r\n\x1a\n and so on"
DATASET = Dataset(
    name="datasets/trees",
    display_name=HOSTILE,
    annotation_kind=Dataset.IMAGE_CLASSIFICATION,
    state=Dataset.READY,
    version=2,
    stats=DatasetStats(
        image_count=100_000,
        annotation_count=100_000,
        category_count=2,
        categories=[CategoryStats(name="oak", image_count=25_000), CategoryStats(name=HOSTILE, image_count=75_000)],
    ),
    finding_counts=FindingCounts(error=1, warning=30, info=2),
)
FINDING = Finding(
    severity=Finding.WARNING, code="exactDuplicate", file=HOSTILE, image_id=5, message=HOSTILE, remedy="Remove one."
)
SNAPSHOT = Snapshot(categories=[SnapshotCategory(id=1, name="oak"), SnapshotCategory(id=2, name=HOSTILE)])


def image(number: int) -> SnapshotImage:
    """An image; every tenth is an oak."""
    category = 1 if number % 10 == 0 else 2
    return SnapshotImage(image_id=number, file_name=f"{HOSTILE}{number}.jpg", category_id=category, sha256="ab" * 32)


def read(request: Any) -> list[ReadImagesResponse]:
    """A dataset of 2,000 images, numbered from 1."""
    start = request.after_image_id + 1 if request.HasField("after_image_id") else 1
    images = [ReadImagesResponse(images=[image(number)]) for number in range(start, 2001)]
    return [ReadImagesResponse(snapshot=SNAPSHOT), *images]


ANSWERS: dict[str, Any] = {
    "ListDatasets": lambda request: ListDatasetsResponse(datasets=[DATASET], next_page_token="a&b"),
    "GetDataset": lambda request: DATASET,
    "ListFindings": lambda request: ListFindingsResponse(findings=[FINDING], next_page_token="c&d"),
    "ReadImages": read,
}


async def test_the_list_and_the_detail_show_counts_balance_and_findings_as_text():
    async with browser(ANSWERS) as one:
        listed = (await one.open("/studio/datasets")).text
        shown = (await one.open("/studio/datasets/trees")).text
    assert "/studio/datasets?page=a%26b" in listed
    assert "100,000" in listed
    assert shown.index("75,000") < shown.index("25,000")
    assert 'width="100.00%"' in shown
    assert 'width="33.33%"' in shown
    assert "exactDuplicate" in shown
    assert "/studio/datasets/trees/thumbnails/5" in shown
    assert "category=%3Cscript%3E" in shown
    assert "<script>alert" not in listed + shown


async def test_a_dataset_of_one_image_says_so():
    stats = DatasetStats(image_count=1, annotation_count=1, category_count=1)
    single = Dataset(name="datasets/one", state=Dataset.READY, stats=stats)
    async with browser({"ListDatasets": lambda request: ListDatasetsResponse(datasets=[single])}) as one:
        listed = (await one.open("/studio/datasets")).text
    assert "1 <small>image</small>" in listed
    assert "1 category, 1 annotation<br>" in listed


async def test_findings_are_read_page_by_page_and_by_severity_and_htmx_gets_its_part_only():
    async with browser(ANSWERS) as one:
        whole = (await one.open("/studio/datasets/trees/findings?severity=warning&page=c%26d")).text
        part = (await one("GET", "/studio/datasets/trees/findings?severity=x", headers={"hx-request": "true"})).text
    first, second = one.requests("ListFindings")
    assert (first.severity, first.page_token) == (Finding.WARNING, "c&d")
    assert second.severity == Finding.SEVERITY_UNSPECIFIED
    assert "<html" in whole
    assert "<html" not in part
    assert "severity=warning&amp;page=c%26d" in whole
    assert "<script>alert" not in whole + part


async def test_images_come_page_by_page_however_many_there_are():
    async with browser(ANSWERS) as one:
        first = (await one.open("/studio/datasets/trees/images")).text
        second = (await one.open(f"/studio/datasets/trees/images?after={PAGE}")).text
        last = (await one.open("/studio/datasets/trees/images?after=1999")).text
        wrong = await one.open("/studio/datasets/trees/images?after=x")
    assert first.count("<figure>") == second.count("<figure>") == PAGE
    assert f"after={PAGE}" in first
    assert f"/thumbnails/{PAGE + 1}?v=abababababababab" in second
    assert last.count("<figure>") == 1
    assert "after=" not in last
    assert wrong.status_code == 400
    assert all(request.annotations_only for request in one.requests("ReadImages"))
    assert "<script>alert" not in first


async def test_the_images_of_a_category_continue_where_the_page_before_ended():
    async with browser(ANSWERS) as one:
        first = (await one.open("/studio/datasets/trees/images?category=oak")).text
        hostile = (await one.open("/studio/datasets/trees/images?category=%3Cscript%3Ealert(1)%3C/script%3E%22'")).text
    assert first.count("<figure>") == PAGE
    assert f"category=oak&amp;after={PAGE * 10 + 9}" in first  # the next oak follows
    assert hostile.count("<figure>") == PAGE
    assert "<script>alert" not in hostile


async def test_an_image_is_sent_as_what_it_is_and_never_as_a_page():
    def stored(request: Any) -> list[ReadImagesResponse]:
        assert request.version == 2
        found = {4: PNG, 5: b"<html><script>alert(1)</script>"}.get(request.after_image_id, PNG)
        one = SnapshotImage(image_id=request.after_image_id + 1, size_bytes=len(found))
        parts = [ReadImagesResponse(chunk=found[:5]), ReadImagesResponse(chunk=found[5:])]
        following = [ReadImagesResponse(images=[SnapshotImage(image_id=99)]), ReadImagesResponse(chunk=b"next")]
        return [ReadImagesResponse(snapshot=SNAPSHOT), ReadImagesResponse(images=[one]), *parts, *following]

    async with browser(ANSWERS | {"ReadImages": stored}) as one:
        shown = await one("GET", "/studio/datasets/trees/images/5?version=2&v=abab")
        disguised = await one("GET", "/studio/datasets/trees/images/6?version=2")
        named = await one("GET", "/studio/datasets/trees/images/..%2f6?version=2")
    assert (shown.content, shown.headers["content-type"]) == (PNG, "image/png")
    assert shown.headers["cache-control"].startswith("private")
    assert disguised.status_code == 404
    assert named.status_code == 404


def drawn(width: int, height: int, turned: bool = False) -> bytes:
    """A JPEG file; turned, it is upright only by its EXIF orientation."""
    out, exif = io.BytesIO(), Image.Exif()
    if turned:
        exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (width, height), (200, 30, 30)).save(out, "JPEG", exif=exif)
    return out.getvalue()


def having(files: dict[int, bytes], read: list[int] | None = None) -> Any:
    """ReadImages of a dataset with these images; `read` gets the ids of those whose bytes are asked for."""

    def answer(request: Any) -> Iterator[ReadImagesResponse]:
        yield ReadImagesResponse(snapshot=SNAPSHOT)
        for id_ in sorted(one for one in files if one > request.after_image_id):
            digest = hashlib.sha256(files[id_]).hexdigest()
            yield ReadImagesResponse(
                images=[SnapshotImage(image_id=id_, file_name="a.jpg", size_bytes=len(files[id_]), sha256=digest)]
            )
            if read is not None:
                read.append(id_)
            half = len(files[id_]) // 2
            yield ReadImagesResponse(chunk=files[id_][:half])
            yield ReadImagesResponse(chunk=files[id_][half:])

    return answer


async def test_pages_show_small_pictures_which_are_made_once_and_known_by_their_digest():
    read = list[int]()
    files = {7: drawn(1000, 500, turned=True), 8: drawn(60, 90)}
    tag = hashlib.sha256(files[7]).hexdigest()
    async with browser(ANSWERS | {"ReadImages": having(files, read)}) as one:
        page = (await one.open("/studio/datasets/trees/images")).text
        read.clear()
        first = await one("GET", f"/studio/datasets/trees/thumbnails/7?v={tag[:16]}")
        again = await one("GET", "/studio/datasets/trees/thumbnails/7?version=1")
        known = await one(
            "GET", "/studio/datasets/trees/thumbnails/7", headers={"if-none-match": first.headers["etag"]}
        )
        stale = await one("GET", "/studio/datasets/trees/thumbnails/7?v=0000000000000000")
        tiny = await one("GET", "/studio/datasets/trees/thumbnails/8")
        missing = await one("GET", "/studio/datasets/trees/thumbnails/6")
        refused = await one("GET", "/studio/datasets/trees/thumbnails/7?version=99999999999")
    assert f'src="/studio/datasets/trees/thumbnails/7?v={tag[:16]}"' in page
    assert f'href="/studio/datasets/trees/images/7?v={tag[:16]}"' in page
    assert Image.open(io.BytesIO(first.content)).size == (160, 320)
    assert first.headers["content-type"] == "image/jpeg"
    assert first.headers["etag"] == f'"{tag}-320"'
    assert "immutable" in first.headers["cache-control"]
    assert again.content == first.content
    assert (known.status_code, known.content) == (304, b"")
    assert "immutable" not in stale.headers["cache-control"]
    assert Image.open(io.BytesIO(tiny.content)).size == (60, 90)
    assert (missing.status_code, refused.status_code) == (404, 400)
    assert [id_ for id_ in read if id_ == 7] == [7]  # its bytes were sent once


async def test_the_bytes_of_an_image_count_before_they_are_read_and_those_of_a_kept_picture_do_not(
    monkeypatch: pytest.MonkeyPatch,
):
    held, read, files = list[tuple[int, int]](), list[int](), {7: drawn(100, 80)}

    async def hold(body: Body, size: int) -> None:
        held.append((size, len(read)))

    monkeypatch.setattr(Body, "hold", hold)
    async with browser(ANSWERS | {"ReadImages": having(files, read)}) as one:
        for path in ("images/7", "thumbnails/7", "thumbnails/7"):
            assert (await one("GET", f"/studio/datasets/trees/{path}")).status_code == 200
    assert held == [(len(files[7]), 0), (len(files[7]), 1)]


async def test_a_kept_picture_is_not_shown_to_whom_the_service_refuses_the_image():
    allowed, files = [True], {7: drawn(100, 80)}

    def guarded(request: Any) -> Iterator[ReadImagesResponse]:
        if not allowed[0]:
            raise DatasetNotFound(name="datasets/trees")
        return having(files)(request)

    async with browser(ANSWERS | {"ReadImages": guarded}) as one:
        first = await one("GET", "/studio/datasets/trees/thumbnails/7")
        allowed[0] = False
        refused = await one(
            "GET", "/studio/datasets/trees/thumbnails/7", headers={"if-none-match": first.headers["etag"]}
        )
    assert (first.status_code, refused.status_code) == (200, 404)


async def test_the_bytes_of_kept_pictures_are_bounded_and_the_least_recently_shown_go_first():
    shrunk = list[str]()

    async def shrink(data: bytes, name: str, side: int) -> bytes:
        shrunk.append(data.decode())
        return b"x" * 40

    kept = Thumbnails(shrink, 100)
    for digest in ("a", "b"):
        await kept.made(digest, digest.encode(), "")
    assert kept.found("a") == b"x" * 40
    await kept.made("c", b"c", "")
    assert [kept.found(digest) is not None for digest in "abc"] == [True, False, True]
    await kept.made("a", b"a", "")
    assert await Thumbnails(shrink, 0).made("d", b"d", "") == b"x" * 40


async def test_an_image_that_cannot_be_decoded_has_no_picture_and_does_not_reach_the_browser():
    files = {7: b"\xff\xd8\xff<script>alert(1)</script>"}
    async with browser(ANSWERS | {"ReadImages": having(files)}) as one:
        response = await one("GET", "/studio/datasets/trees/thumbnails/7")
    assert response.status_code == 400
    assert "<script>alert" not in response.text


async def test_a_page_of_a_rare_category_looks_at_so_many_images_and_goes_on_from_there():
    def rare(request: Any) -> Iterator[ReadImagesResponse]:
        yield ReadImagesResponse(snapshot=SNAPSHOT)
        for start in range(request.after_image_id + 1, 100_001, 1000):
            looked.append(start)
            numbers = range(start, min(start + 1000, 100_001))
            yield ReadImagesResponse(
                images=[SnapshotImage(image_id=n, category_id=1 if n in (5, 99_999) else 2) for n in numbers]
            )

    looked = list[int]()
    async with browser(ANSWERS | {"ReadImages": rare}) as one:
        first = (await one.open("/studio/datasets/trees/images?category=oak")).text
        assert len(looked) <= SCANNED // 1000 + 1
        last = (await one.open("/studio/datasets/trees/images?category=oak&after=95000")).text
    assert first.count("<figure>") == 1
    assert f"category=oak&amp;after={SCANNED}" in first
    assert last.count("<figure>") == 1
    assert "after=" not in last


async def test_a_hundred_thousand_images_are_browsed_without_any_request_that_grows_with_them():
    """From the first page to the last: how much is read, sent and shown does not depend on where one is."""
    sent = list[int]()

    def large(request: Any) -> Iterator[ReadImagesResponse]:
        yield ReadImagesResponse(snapshot=SNAPSHOT)
        sent.append(0)
        for start in range(request.after_image_id + 1, 100_001, 500):
            numbers = range(start, min(start + 500, 100_001))
            sent[-1] += len(numbers)
            yield ReadImagesResponse(images=[image(n) for n in numbers])

    sizes = list[int]()
    async with browser(ANSWERS | {"ReadImages": large}) as one:
        for after in (0, 48, 50_000, 99_952):
            page = (await one.open(f"/studio/datasets/trees/images?after={after}")).text
            sizes.append(len(page))
            assert page.count("<figure>") == page.count("<img loading") == PAGE
            assert len(re.findall(r"<\w", page)) < 400
            assert (f"after={after + PAGE}" in page) == (after + PAGE < 100_000)
        detail = (await one.open("/studio/datasets/trees")).text
    assert max(sent) <= 500
    assert max(sizes) < 40_000
    assert "<figure>" not in detail


async def test_an_image_that_the_dataset_does_not_have_is_not_another_one():
    async with browser(ANSWERS) as one:
        for image in ("9999", "9" * 30, "\u0661"):
            assert (await one("GET", f"/studio/datasets/trees/images/{image}")).status_code == 404


async def test_a_dataset_is_deleted_only_if_its_name_was_typed():
    async with browser(ANSWERS | {"DeleteDataset": lambda request: None}) as one:
        await one.open("/studio/datasets/trees")
        refused = await one.post("/studio/datasets/trees/delete", confirmation="tree")
        assert not one.requests("DeleteDataset")
        deleted = await one.post("/studio/datasets/trees/delete", confirmation="trees")
    assert refused.status_code == 400
    assert "nothing was deleted" in refused.text
    assert deleted.headers["location"] == "/studio/datasets"
    assert one.requests("DeleteDataset")[0].name == "datasets/trees"


async def test_checking_is_followed_live():
    checking = Dataset(
        name="datasets/trees",
        state=Dataset.VALIDATING,
        progress=DatasetProgress(phase=DatasetProgress.CHECKING_IMAGES, images_done=1200, images_total=5000),
    )
    watched = [WatchDatasetResponse(dataset=checking), WatchDatasetResponse(dataset=DATASET)]
    answers = ANSWERS | {"GetDataset": lambda request: checking, "WatchDataset": lambda request: watched}
    async with browser(answers) as one:
        page = (await one.open("/studio/datasets/trees")).text
        events = (await one("GET", "/studio/datasets/trees/progress")).text
    assert 'data-live="/studio/datasets/trees/progress"' in page
    assert "1,200 of 5,000 images" in page
    assert "event: progress" in events
    assert "event: ended" in events


async def test_a_viewer_sees_no_images_and_changes_nothing():
    async with browser(ANSWERS, roles=("viewer",)) as one:
        page = (await one.open("/studio/datasets/trees")).text
    assert "<img loading" not in page
    assert "/delete" not in page
    assert "/train" not in page


async def test_a_file_is_passed_on_in_chunks_with_its_digest_under_its_path():
    content = b"x" * (2 * 1024**2 + 1)

    def store(request: Any) -> UploadFilesResponse:
        return UploadFilesResponse(files=[UploadedFile(uri="s3://bucket/u/1/a b.jpg")])

    async with browser(ANSWERS | {"UploadFiles": store}) as one:
        await one.open("/studio/new")
        response = await one.send("/studio/uploads/u1/file?path=oak%2Fa%20b.jpg", content)
    assert response.json() == {"uri": "s3://bucket/u/1/a b.jpg"}
    (sent,) = one.requests("UploadFiles")
    header, file, *chunks = sent
    assert header.header.upload_id == "u1"
    assert (file.file.path, file.file.size_bytes) == ("oak/a b.jpg", len(content))
    assert file.file.sha256 == hashlib.sha256(content).hexdigest()
    assert b"".join(one.chunk for one in chunks) == content
    assert max(len(one.chunk) for one in chunks) == 1024**2


async def test_a_file_that_is_too_large_is_refused_unread():
    async with browser(ANSWERS, max_image_batch_bytes=1024) as one:
        await one.open("/studio/new")
        response = await one.send("/studio/uploads/u1/file?path=a.jpg", b"x" * 1025)
    assert response.status_code == 413
    assert "<html" not in response.text
    assert not one.requests("UploadFiles")


async def test_a_dataset_is_registered_and_a_name_that_is_taken_is_told_in_the_services_words():
    async with browser(ANSWERS | {"CreateDataset": lambda request: DATASET}) as one:
        await one.open("/studio/new")
        checked = await one.post("/studio/datasets", id="trees", kind="detection", validate_only="1")
        created = await one.post("/studio/datasets", id="trees", kind="detection", uri="s3://b/k.json")
        wrong = await one.post("/studio/datasets", id="trees", kind="other")
    first, second = one.requests("CreateDataset")
    assert first.validate_only
    assert (second.dataset_id, second.dataset.annotation_kind) == ("trees", Dataset.OBJECT_DETECTION)
    assert list(second.dataset.annotation_file_uris) == ["s3://b/k.json"]
    assert (checked.status_code, created.headers["location"]) == (204, "/studio/datasets/trees")
    assert wrong.status_code == 400

    def taken(request: Any) -> Any:
        raise DatasetAlreadyExists(name=HOSTILE)

    async with browser(ANSWERS | {"CreateDataset": taken}) as one:
        await one.open("/studio/new")
        response = await one.post("/studio/datasets", id="trees", kind="detection")
    assert response.status_code == 409
    assert "<script>alert" not in response.text


async def test_what_is_dropped_for_a_dataset_becomes_its_next_version():
    async with browser(ANSWERS | {"CreateDataset": lambda request: DATASET}) as one:
        shown = (await one.open("/studio/datasets/trees")).text
        page = (await one.open("/studio/new?dataset=trees")).text
        hostile = (await one.open("/studio/new?dataset=" + quote(HOSTILE))).text
        await one.post("/studio/datasets", id="trees", kind="detection", new_version="1", uri="s3://b/k.json")
    assert 'href="/studio/new?dataset=trees"' in shown
    assert '<input type="hidden" name="id" value="trees">' in page
    assert '<input type="hidden" name="new_version" value="1">' in page
    assert "<script>alert" not in hostile
    assert one.requests("CreateDataset")[0].new_version


async def test_a_training_starts_with_the_budget_of_the_slider():
    async with browser(ANSWERS | {"CreateModel": lambda request: Model(name="models/oaks")}) as one:
        await one.open("/studio/datasets/trees/train")
        response = await one.post("/studio/datasets/trees/train", id=" oaks ", minutes="15")
        wrong = [
            await one.post("/studio/datasets/trees/train", id="x", minutes=text)
            for text in ("", "0", "-1", "1e3", "17281", "000001" + "9" * 15)
        ]
    (request,) = one.requests("CreateModel")
    parameters = request.model.training_parameters
    assert (request.model_id, parameters.training_dataset) == ("oaks", "datasets/trees")
    assert parameters.time_budget.ToTimedelta() == timedelta(minutes=15)
    assert parameters.model_kind == TrainingParameters.GENERIC_CLASSIFIER
    assert response.headers["location"] == "/studio/models/oaks"
    assert {one.status_code for one in wrong} == {400}


async def test_an_estimate_says_the_budgets_and_what_to_expect_of_them():
    found = EstimateTrainingResponse(
        minimum_budget=Duration(seconds=30),
        suggested_budget=Duration(seconds=600),
        device="cpu, 2 threads",
        metric_name="accuracy_top1",
        outlook=[
            BudgetOutlook(budget=Duration(seconds=600), metric_value=0.9, interval=Interval(low=0.85, high=0.95)),
            BudgetOutlook(budget=Duration(seconds=1)),
        ],
    )
    async with browser(ANSWERS | {"EstimateTraining": lambda request: found}) as one:
        await one.open("/studio/datasets/trees/train")
        page = (await one.post("/studio/datasets/trees/estimate")).text
    assert one.seen[-1].timeout == 300  # a measurement waits for a free worker
    assert "30 s" in page
    assert "90.0 %" in page
    assert page.count('scope="row"') == 1


@pytest.mark.parametrize("boxes", [[], [SnapshotBox(category_id=1), SnapshotBox(category_id=1)]])
async def test_the_categories_of_boxes_are_named_once(boxes: list[SnapshotBox]):
    one_image = ReadImagesResponse(images=[SnapshotImage(image_id=1, boxes=boxes)])
    answers = ANSWERS | {"ReadImages": lambda request: [ReadImagesResponse(snapshot=SNAPSHOT), one_image]}
    async with browser(answers) as one:
        page = (await one.open("/studio/datasets/trees/images")).text
    assert ("<figcaption>oak<" in page) == bool(boxes)
    assert ("<figcaption>no box<" in page) == (not boxes)
