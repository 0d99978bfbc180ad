"""Custom Vision's training calls: projects, tags, images, training, iterations."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from services.gateway.custom_vision import project_files
from services.gateway.custom_vision.iterations import PUBLISHED
from services.gateway.custom_vision.project_files import ProjectFiles, merge
from services.gateway.custom_vision.tag_ids import MAX_RENAMED, PROPERTIES, id_in, properties
from services.gateway.upstream import Services, Session
from services.kit.caller_fields import MAX_PROPERTIES, check_caller_fields
from services.kit.errors import Unavailable
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.model_pb2 import Model, TrainingParameters
from sightline.v1.performance_pb2 import ModelPerformance, TagPerformance
from tests.support.custom_vision import Backing, picture
from tests.support.gateway import Front, Stub, front
from tests.unit.gateway.test_image_analysis_predictions import tags as predicted

BASE = "/customvision/v3.4-preview/training"
DETECTION = "da2e3a8a-40a5-4171-82f4-58522f70fbc1"
COMPACT = "0732100f-1a38-4e49-a514-c9b44c697ab5"
BOX = {"left": 0.1, "top": 0.2, "width": 0.3, "height": 0.4}


class Client:
    """Calls the API of one project, and fails unless the status is as expected."""

    def __init__(self, gateway: Front) -> None:
        self.gateway, self.project = gateway, ""

    async def __call__(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        response = await self.gateway(method, f"{BASE}{path.replace('~', f'/projects/{self.project}')}", **options)
        assert response.status_code == status, response.text
        return response.json() if response.content else None

    async def create(self, *tags: str, **query: str) -> dict[str, str]:
        """A project with these tags; returns their ids."""
        query = {"name": "a project"} | query
        self.project = (await self("POST", "/projects", params=query))["id"]
        return {name: (await self("POST", "~/tags", params={"name": name}))["id"] for name in tags}

    async def add(self, *images: bytes, status: int = 200, **entry: Any) -> Any:
        """Adds images by their bytes."""
        entries = [{"contents": base64.b64encode(one).decode(), **entry} for one in images]
        return await self("POST", "~/images/files", status, json={"Images": entries})


@asynccontextmanager
async def served(backing: Backing, **settings: Any) -> AsyncGenerator[Client]:
    async with front(backing.answers, **settings) as gateway:
        yield Client(gateway)


@pytest.fixture
def backing() -> Backing:
    return Backing()


def session_of(backing: Backing, token: str = "") -> Session:
    stub: Any = Stub([], backing.answers)
    return Session(Services(*[stub] * len(fields(Services))), (("authorization", token),))


def annotated(backing: Backing) -> dict[str, Any]:
    """The COCO file of the only project's dataset."""
    (dataset,) = backing.datasets.values()
    (uri,) = dataset.annotation_file_uris
    upload, path = uri.removeprefix("s3://sightline/uploads/").split("/", 1)
    return json.loads(backing.uploads[upload][path])


@pytest.mark.parametrize("version", ["v3.3", "v3.4-preview"])
async def test_a_project_is_created_listed_changed_and_deleted(backing: Backing, version: str):
    async with served(backing) as client:
        training = f"/customvision/{version}/training"
        made = (await client.gateway("POST", f"{training}/projects?name=birds&description=all")).json()
        client.project = made["id"]
        assert (await client("GET", "~"))["name"] == "birds"
        await client("PATCH", "~", json={"name": "owls", "settings": {}})
        (listed,) = await client("GET", "/projects")
        await client("DELETE", "~", 204)
        missing = await client("GET", "~", 404)
        assert await client("GET", "/projects") == []
    assert made["settings"]["classificationType"] == "Multiclass"
    assert (listed["name"], listed["description"]) == ("owls", "all")
    assert missing["code"] == "NotFoundProject"


@pytest.mark.parametrize(
    ("content", "limit"),
    [(b'{"images": {"x": "' + b"x" * 3000 + b'"}}', "2000 bytes"), (b'{"x": [' + b"0," * 300 + b"0]}", "200 values")],
)
async def test_a_project_of_too_many_changes_is_not_read_and_hides_no_others(
    backing: Backing, monkeypatch: pytest.MonkeyPatch, content: bytes, limit: str
):
    monkeypatch.setattr(project_files, "MAX_BYTES", 2000)
    monkeypatch.setattr(project_files, "MAX_VALUES", 200)
    async with served(backing) as client:
        await client.create(name="small")
        await client.create(name="large")
        backing.uploads[f"custom-vision-{client.project}"]["changes/99.json"] = content
        backing.reads.clear()
        refused = await client("GET", "~", 400)
        read = list(backing.reads)
        (listed,) = await client("GET", "/projects")
        await client("DELETE", "~", 204)
        await client("GET", "~", 404)
    assert limit in refused["message"]
    assert listed["name"] == "small"
    assert read == ([] if "bytes" in limit else read), "what is too large is not even read"


async def test_what_a_project_becomes_in_memory_counts_before_it_is_decoded(backing: Backing):
    held = list[int]()

    async def hold(size: int) -> None:
        held.append(size)

    session = replace(session_of(backing), hold=hold)
    made = {"project": {"created": "now"}}
    await ProjectFiles().change(session, "p", made)
    await ProjectFiles().state(session, "p")
    length = len(json.dumps(made, separators=(",", ":")))
    assert held == [length, length + 2 * project_files.VALUE_BYTES]


async def test_a_project_whose_dataset_is_not_deleted_is_still_there_and_is_deleted_by_another_try(backing: Backing):
    def refuse(request: Any) -> Any:
        raise Unavailable(what="the store", problem="away")

    async with front(backing.answers | {"DeleteDataset": refuse}) as gateway:
        client = Client(gateway)
        await client.create()
        backing.datasets[f"datasets/{client.project}"] = Dataset()
        await client("DELETE", "~", 503)
        assert len(await client("GET", "/projects")) == 1
    async with served(backing) as again:
        again.project = client.project
        await again("DELETE", "~", 204)
    assert not backing.datasets
    assert not backing.uploads


async def test_any_replica_knows_what_another_one_wrote_and_reads_each_change_once(backing: Backing):
    async with served(backing) as one, served(backing) as other:
        await one.create("owl", "jay")
        other.project = one.project
        assert [tag["name"] for tag in await other("GET", "~/tags")] == ["jay", "owl"]
        await other("POST", "~/tags", params={"name": "emu"})
        assert [tag["name"] for tag in await one("GET", "~/tags")] == ["emu", "jay", "owl"]
        read = len(backing.reads)
        await one("GET", "~/tags")
        assert len(backing.reads) == read


async def test_a_change_comes_after_all_that_its_replica_has_seen_even_if_its_clock_is_behind(backing: Backing):
    now, session = datetime(2027, 1, 1, tzinfo=UTC), session_of(backing)
    ahead, behind = ProjectFiles(lambda: now + timedelta(seconds=5)), ProjectFiles(lambda: now)
    await ahead.change(session, "p", {"project": {"created": "now", "name": "first"}})
    await behind.state(session, "p")
    await behind.change(session, "p", {"project": {"name": "second"}})
    await behind.change(session, "p", {"project": {"name": "third"}})
    for files in (ahead, behind):
        assert (await files.state(session, "p"))["project"]["name"] == "third"


async def test_changes_of_the_far_future_count_for_no_other_caller_and_no_later_change(backing: Backing):
    now = datetime(2027, 1, 1, tzinfo=UTC)
    files, foreign, other = ProjectFiles(lambda: now), session_of(Backing(), "foreign"), session_of(backing, "mine")
    upload = f"{project_files.PREFIX}p"
    for session, texts in ((foreign, ("{}", '{"project": {"created": "now"}}')), (other, ("{}",))):
        for number, text in enumerate(texts):
            path = f"changes/99991231T235959.99999{number}-x.json"
            await files.store(session, "p", {path: text.encode()})
    await files.state(foreign, "p")
    await files.change(other, "p", {"project": {"created": "now", "name": "first"}})
    await files.state(other, "p")
    await files.change(other, "p", {"project": {"name": "second"}})
    assert (await files.state(other, "p"))["project"]["name"] == "second"
    assert sorted(backing.uploads[upload])[1].startswith("changes/20270101T")


async def test_the_bytes_of_changes_that_are_remembered_are_bounded(backing: Backing, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(project_files, "KEPT_BYTES", 4000)
    files = ProjectFiles()
    await files.change(session_of(backing), "p", {"project": {"created": "now", "name": "n" * 2000}})
    for token, reads in (("a", 1), ("a", 1), ("b", 2), ("a", 3), ("a", 3)):
        assert (await files.state(session_of(backing, token), "p"))["project"]["created"] == "now"
        assert len(backing.reads) == reads


async def test_what_one_caller_read_is_not_shown_to_another(backing: Backing):
    async with served(backing) as client:
        await client.create("owl")
        await client("GET", "~/tags", headers={"Training-Key": "a"})
        read = len(backing.reads)
        await client("GET", "~/tags", headers={"Training-Key": "b"})
        assert len(backing.reads) > read


async def test_changes_of_two_clients_at_the_same_time_are_both_kept(backing: Backing):
    async with served(backing) as client:
        tags = await client.create("owl", "jay")
        image = (await client.add(picture()))["images"][0]["image"]["id"]
        before = dict(backing.uploads[f"{project_files.PREFIX}{client.project}"])
        for tag in tags.values():  # each client knows only what was there before
            await client("POST", "~/images/tags", json={"tags": [{"imageId": image, "tagId": tag}]})
            backing.uploads[f"{project_files.PREFIX}{client.project}"] |= before
        (shown,) = await client("GET", "~/images/tagged")
    assert {tag["tagName"] for tag in shown["tags"]} == {"owl", "jay"}


async def test_what_was_deleted_does_not_come_back_by_a_change_that_came_later(backing: Backing):
    async with served(backing) as client:
        tags = await client.create("owl")
        image = (await client.add(picture()))["images"][0]["image"]["id"]
        upload = f"{project_files.PREFIX}{client.project}"
        before = len(backing.uploads[upload])
        await client("POST", "~/images/tags", json={"tags": [{"imageId": image, "tagId": tags["owl"]}]})
        (late,) = list(backing.uploads[upload].items())[before:]
        del backing.uploads[upload][late[0]]
        await client("DELETE", "~/images", 204, params={"imageIds": image})
        backing.uploads[upload]["changes/99999999T000000.000000-late.json"] = late[1]
        assert await client("GET", "~/images") == []
        await client("DELETE", "~", 204)
        renamed = {"changes/1.json": b'{"project": {"name": "of another client"}}'}
        backing.uploads[upload] = renamed
        assert (await client("GET", "~", 404))["code"] == "NotFoundProject"
        assert await client("GET", "/projects") == []


@pytest.mark.parametrize(
    ("patches", "whole"),
    [
        ([{"a": {"b": 1}}, {"a": {"c": 2}}], {"a": {"b": 1, "c": 2}}),
        ([{"a": {"b": 1}}, {"a": {"b": None}}], {"a": {}}),
        ([{"a": 1}, {"a": {"b": {"c": None, "d": 1}}}], {"a": {"b": {"d": 1}}}),
        ([{"a": {"b": 1}}, {"a": [1]}], {"a": [1]}),
    ],
)
def test_patches_are_merged_as_the_rfc_says(patches: list[Any], whole: Any):
    state: dict[str, Any] = {}
    for patch in patches:
        merge(state, patch)
    assert state == whole
    assert patches[0] in ({"a": {"b": 1}}, {"a": 1}), "a patch is not changed"


async def test_tags_have_unique_names_and_leave_with_their_deletion(backing: Backing):
    async with served(backing) as client:
        tags = await client.create("owl", "jay")
        again = await client("POST", "~/tags", 400, params={"name": " owl "})
        await client.add(picture(), tagIds=[tags["owl"]])
        assert (await client("GET", f"~/tags/{tags['owl']}"))["imageCount"] == 1
        await client("DELETE", f"~/tags/{tags['owl']}", 204)
        gone = await client("GET", f"~/tags/{tags['owl']}", 404)
        assert await client("GET", "~/images/tagged") == []
        assert len(await client("GET", "~/images/untagged")) == 1
    assert (again["code"], gone["code"]) == ("BadRequestTagNameNotUnique", "NotFoundTag")


async def test_a_tag_keeps_its_id_and_its_images_when_it_is_renamed(backing: Backing):
    async with served(backing) as client:
        tags = await client.create("owl", "jay")
        for shade, tag in enumerate(tags.values()):
            await client.add(picture(shade), tagIds=[tag])
        renamed = await client("PATCH", f"~/tags/{tags['owl']}", json={"name": " emu ", "description": "a bird"})
        taken = await client("PATCH", f"~/tags/{tags['owl']}", 400, json={"name": "jay"})
        missing = await client("PATCH", "~/tags/none", 404, json={"name": "jay"})
        shown = await client("GET", f"~/tags/{tags['owl']}")
        (image,) = await client("GET", "~/images/tagged", params={"tagIds": tags["owl"]})
        again = await client("POST", "~/tags", params={"name": "owl"})
        await client("POST", "~/train")
    assert renamed == shown
    assert shown == {"id": tags["owl"], "name": "emu", "description": "a bird", "type": "Regular", "imageCount": 1}
    assert (taken["code"], missing["code"]) == ("BadRequestTagNameNotUnique", "NotFoundTag")
    assert image["tags"][0]["tagName"] == "emu"
    assert again["id"] not in tags.values()
    assert [one["name"] for one in annotated(backing)["categories"]] == ["emu", "jay"]


async def test_predictions_and_measurements_have_the_ids_that_tags_have_in_the_project(backing: Backing):
    async with front(backing.answers | {"AnalyzeImage": lambda request: predicted(emu=0.9, jay=0.1)}) as gateway:
        client = Client(gateway)
        tags = await client.create("owl", "jay")
        for shade, tag in enumerate(tags.values()):
            await client.add(picture(shade), tagIds=[tag])
        await client("PATCH", f"~/tags/{tags['owl']}", json={"name": "emu"})
        iteration = (await client("POST", "~/train"))["id"]
        model = backing.models[f"models/{iteration}"]
        model.state, model.model_version = Model.SUCCEEDED, "v1"
        measured = {name: TagPerformance(precision=1.0) for name in ("emu", "jay")}
        model.performance.CopyFrom(ModelPerformance(average_precision=0.8, tag_performance=measured))
        quick = await client("POST", "~/quicktest/image", content=picture())
        performance = await client("GET", f"~/iterations/{iteration}/performance")
    wanted = {"emu": tags["owl"], "jay": tags["jay"]}
    assert {one["tagName"]: one["tagId"] for one in quick["predictions"]} == wanted
    assert {one["name"]: one["id"] for one in performance["perTagPerformance"]} == wanted


async def test_as_many_tags_can_be_renamed_as_a_model_remembers(backing: Backing):
    async with served(backing) as client:
        tags = await client.create(*(f"tag {number}" for number in range(MAX_RENAMED + 1)))
        *most, last = tags.items()
        for name, one in most:
            await client("PATCH", f"~/tags/{one}", json={"name": f"{name} {'x' * 200}"})
        refused = await client("PATCH", f"~/tags/{last[1]}", 400, json={"name": "one more"})
        await client("PATCH", f"~/tags/{most[0][1]}", json={"name": most[0][0]})
        await client("PATCH", f"~/tags/{last[1]}", json={"name": "one more"})
        state = {one["id"]: one for one in await client("GET", "~/tags")}
    assert refused["code"] == "BadRequestTagName"
    kept = properties(client.project, state)
    assert all(id_in(client.project, tag["name"], kept) == one for one, tag in state.items())
    others = {f"p{number}": "" for number in range(MAX_PROPERTIES - PROPERTIES)}
    check_caller_fields("model", "", kept | others)


async def test_a_tag_that_was_deleted_is_not_on_its_images_when_its_name_comes_back(backing: Backing):
    async with served(backing) as client:
        tags = await client.create("owl", domainId=DETECTION)
        region = {"tagId": tags["owl"]} | BOX
        await client.add(picture(), tagIds=[tags["owl"]], regions=[region])
        await client("DELETE", f"~/tags/{tags['owl']}", 204)
        made = await client("POST", "~/tags", params={"name": "owl"})
        assert (await client("GET", f"~/tags/{made['id']}"))["imageCount"] == 0
        (image,) = await client("GET", "~/images/untagged")
    assert image["regions"] == []


async def test_a_project_has_one_negative_tag(backing: Backing):
    async with served(backing) as client:
        await client.create()
        await client("POST", "~/tags", params={"name": "nothing", "type": "Negative"})
        refused = await client("POST", "~/tags", 400, params={"name": "other", "type": "Negative"})
        unknown = await client("POST", "~/tags", 400, params={"name": "other", "type": "Odd"})
    assert (refused["code"], unknown["code"]) == ("BadRequestMultipleNegativeTag", "BadRequestTagType")


@pytest.mark.parametrize(
    ("kind", "code"), [("Multilabel", "BadRequestNotSupported"), ("Odd", "BadRequestProjectUnknownClassification")]
)
async def test_a_project_that_could_never_be_trained_is_not_created(backing: Backing, kind: str, code: str):
    async with served(backing) as client:
        refused = await client("POST", "/projects", 400, params={"name": "birds", "classificationType": kind})
        await client.create()
        later = await client("PATCH", "~", 400, json={"settings": {"classificationType": kind}})
        detector = {"name": "birds", "classificationType": kind, "domainId": DETECTION}
        made = await client("POST", "/projects", params=detector)
    assert (refused["code"], later["code"]) == (code, code)
    assert "classificationType" not in made["settings"], "which has no meaning for a detector"


async def test_a_project_s_domain_changes_within_its_type(backing: Backing):
    async with served(backing) as client:
        await client.create()
        changed = await client("PATCH", "~", json={"settings": {"domainId": COMPACT}})
        refused = await client("PATCH", "~", 400, json={"settings": {"domainId": DETECTION}})
        unnamed = await client("PATCH", "~", 400, json={"name": " "})
        assert (await client("GET", "~"))["settings"]["domainId"] == COMPACT
    assert changed["settings"]["domainId"] == COMPACT
    assert (refused["code"], unnamed["code"]) == (
        "BadRequestProjectUnsupportedDomainTypeChange",
        "BadRequestProjectName",
    )


@pytest.mark.parametrize(("path", "code"), [("/projects", "BadRequestProjectName"), ("~/tags", "BadRequestTagName")])
async def test_a_name_with_a_character_that_nobody_sees_is_refused(backing: Backing, path: str, code: str):
    async with served(backing) as client:
        await client.create()
        refused = await client("POST", path, 400, params={"name": "a\0b"})
    assert (refused["code"], refused["message"]) == (code, "name: it has the control character U+0000; remove it")


async def test_a_quick_test_asks_an_iteration_that_need_not_be_published(backing: Backing):
    async with front(backing.answers | {"AnalyzeImage": lambda request: predicted(owl=0.9)}) as gateway:
        client = Client(gateway)
        await client.create()
        none = await client("POST", "~/quicktest/image", 400, content=picture())
        for name, seconds in (("old", 1), ("new", 2)):
            add_model(backing, client.project, name, create_time=Timestamp(seconds=seconds))
        add_model(backing, client.project, "young", Model.TRAINING, model_version="", create_time=Timestamp(seconds=3))
        add_model(backing, "another", "theirs")
        latest = await client("POST", "~/quicktest/image", files=[("imageData", ("1.png", picture()))])
        chosen = await client("POST", "~/quicktest/url?iterationId=old&store=false", json={"Url": "s3://a/1.png"})
        early = await client("POST", "~/quicktest/image?iterationId=young", 400, content=picture())
        foreign = await client("POST", "~/quicktest/image?iterationId=theirs", 404, content=picture())
    assert (latest["iteration"], chosen["iteration"]) == ("new", "old")
    assert [one["tagName"] for one in latest["predictions"]] == ["owl"]
    first, second = gateway.requests("AnalyzeImage")
    assert (first.image, second.uri) == (picture(), "s3://a/1.png")
    assert {none["code"], early["code"]} == {"BadRequestIterationIsNotTrained"}
    assert foreign["code"] == "NotFoundIteration"


async def test_images_come_as_a_form_in_base64_or_by_the_uri_of_the_store(backing: Backing):
    async with served(backing, blob_prefixes="https://a.example/x=s3://sightline/y") as client:
        tags = await client.create("owl")
        files = [("imageData", ("1.png", picture(1))), ("imageData", ("2.png", picture(2)))]
        form = await client("POST", "~/images", params={"tagIds": tags["owl"]}, files=files)
        data = await client.add(picture(3, (300, 200)), tagIds=[tags["owl"]])
        urls = {"images": [{"url": "https://a.example/x/4.png"}], "tagIds": [tags["owl"]]}
        linked = await client("POST", "~/images/urls", json=urls)
        assert await client("GET", "~/images/tagged/count") == 4
    assert [one["status"] for one in form["images"]] == ["OK", "OK"]
    assert form["isBatchSuccessful"]
    assert (data["images"][0]["image"]["width"], data["images"][0]["image"]["height"]) == (300, 200)
    assert linked["images"][0]["image"]["originalImageUri"] == "s3://sightline/y/4.png"


async def test_an_image_is_added_once_and_what_is_no_image_does_not_hold_the_others_up(backing: Backing):
    async with served(backing) as client:
        await client.create()
        first = await client.add(picture(1))
        second = await client.add(picture(1), b"no image", picture(2), status=207)
        assert await client("GET", "~/images/count") == 2
    assert [one["status"] for one in second["images"]] == ["OKDuplicate", "ErrorImageFormat", "OK"]
    assert second["images"][0]["image"]["id"] == first["images"][0]["image"]["id"]
    assert not second["isBatchSuccessful"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"images": []}, 400, "BadRequestRequiredParamIsNull"),
        ({"images": [{"contents": "%"}]}, 400, "BadRequest"),
        ({"images": [{"contents": base64.b64encode(picture()).decode(), "tagIds": ["none"]}]}, 404, "NotFoundTag"),
        ({"images": [{"contents": base64.b64encode(picture()).decode()}] * 65}, 400, "BadRequestExceededBatchSize"),
        ({"images": [{}] * 65}, 400, "BadRequestExceededBatchSize"),
    ],
)
async def test_a_batch_that_cannot_be_added_is_refused(backing: Backing, body: Any, status: int, code: str):
    async with served(backing) as client:
        await client.create()
        assert (await client("POST", "~/images/files", status, json=body))["code"] == code
        assert await client("GET", "~/images/count") == 0


async def test_regions_are_added_shown_and_removed(backing: Backing):
    async with served(backing) as client:
        tags = await client.create("fork", domainId=DETECTION)
        region = {"tagId": tags["fork"]} | BOX
        image = (await client.add(picture(), regions=[region]))["images"][0]["image"]
        more = await client("POST", "~/images/regions", json={"regions": [{"imageId": image["id"]} | region]})
        outside = {"regions": [{"imageId": image["id"]} | region | {"left": 80}]}
        refused = await client("POST", "~/images/regions", 400, json=outside)
        await client("DELETE", "~/images/regions", 204, params={"regionIds": image["regions"][0]["regionId"]})
        (shown,) = await client("GET", "~/images/id", params={"imageIds": image["id"]})
    assert refused["code"] == "BadRequestImageRegions"
    (left,) = shown["regions"]
    assert left["regionId"] == more["created"][0]["regionId"]
    assert {key: left[key] for key in BOX} == BOX
    assert [tag["tagName"] for tag in shown["tags"]] == ["fork"]


async def test_images_are_listed_in_pages_by_tag_and_removed(backing: Backing):
    async with served(backing) as client:
        tags = await client.create("owl", "jay")
        added = await client.add(*(picture(shade) for shade in range(5)), tagIds=[tags["owl"]])
        await client.add(picture(9), tagIds=[tags["jay"]])
        pages = [await client("GET", "~/images/tagged", params={"take": 4, "skip": skip}) for skip in (0, 4)]
        jays = await client("GET", "~/images/tagged", params={"tagIds": tags["jay"]})
        gone = ",".join(one["image"]["id"] for one in added["images"][:2])
        await client("DELETE", "~/images", 204, params={"imageIds": gone})
        await client("DELETE", "~/images/tags", 204, params={"imageIds": jays[0]["id"], "tagIds": tags["jay"]})
        assert await client("GET", "~/images/tagged/count") == 3
        assert await client("GET", "~/images/untagged/count") == 1
        assert (await client("DELETE", "~/images", 404, params={"imageIds": gone}))["code"] == "NotFoundImage"
        for take in ("257", "00000000000999999", "00000000000" + "9" * 5000):
            await client("GET", "~/images/tagged", 400, params={"take": take})
    assert [len(page) for page in pages] == [4, 2]
    assert len({image["id"] for page in pages for image in page}) == 6
    assert len(jays) == 1


async def test_a_classifier_is_trained_on_the_tagged_images(backing: Backing):
    async with served(backing, quick_training_seconds=30) as client:
        tags = await client.create("owl", "jay", "unused")
        await client.add(picture(1), picture(2), tagIds=[tags["owl"]])
        await client.add(picture(3), tagIds=[tags["jay"]])
        await client.add(picture(4))
        iteration = await client("POST", "~/train", json={})
    coco, (model,) = annotated(backing), backing.models.values()
    assert [one["name"] for one in coco["categories"]] == ["jay", "owl"]
    assert len(coco["images"]) == 3
    assert sorted(one["category_id"] for one in coco["annotations"]) == [1, 2, 2]
    (files,) = backing.uploads.values()
    assert {one["file_name"] for one in coco["images"]} < files.keys()
    assert model.training_parameters.time_budget.seconds == 30
    assert model.training_parameters.model_kind == TrainingParameters.GENERIC_CLASSIFIER
    assert model.training_parameters.training_dataset == f"datasets/{client.project}"
    assert (iteration["name"], iteration["status"], iteration["trainingType"]) == ("Iteration 1", "New", "Regular")
    assert iteration["projectId"] == client.project


async def test_a_detector_is_trained_on_regions_with_negative_images_as_background(backing: Backing):
    async with served(backing) as client:
        tags = await client.create("fork", domainId=DETECTION)
        negative = await client("POST", "~/tags", params={"name": "nothing", "type": "Negative"})
        await client.add(picture(1), regions=[{"tagId": tags["fork"]} | BOX])
        await client.add(picture(2), tagIds=[negative["id"]])
        await client.add(picture(3))
        urls = {"images": [{"url": "s3://sightline/a/4.png", "regions": [{"tagId": tags["fork"]} | BOX]}]}
        await client("POST", "~/images/urls", json=urls)
        query = {"trainingType": "Advanced", "reservedBudgetInHours": "2"}
        iteration = await client("POST", "~/train", params=query)
    coco, (dataset,) = annotated(backing), backing.datasets.values()
    assert dataset.annotation_kind == Dataset.OBJECT_DETECTION
    assert len(coco["images"]) == 3
    assert [one["bbox"] for one in coco["annotations"]] == [[0.1, 0.2, 0.3, 0.4]] * 2
    assert [one["coco_url"] for one in coco["images"] if "coco_url" in one] == ["s3://sightline/a/4.png"]
    assert (iteration["reservedBudgetInHours"], iteration["trainingType"]) == (2, "Advanced")
    assert "classificationType" not in iteration


async def test_a_training_is_refused_if_nothing_has_changed_unless_it_is_forced(backing: Backing):
    async with served(backing) as client:
        tags = await client.create("owl", "jay")
        for shade, tag in enumerate(tags.values()):
            await client.add(picture(shade), tagIds=[tag])
        await client("POST", "~/train")
        same = await client("POST", "~/train", 400)
        created = len(client.gateway.requests("CreateDataset"))
        await client("POST", "~/train", params={"forceTrain": "true"})
        assert len(client.gateway.requests("CreateDataset")) == created, "the dataset has these annotations already"
        await client.add(picture(9), tagIds=[tags["owl"]])
        assert (await client("POST", "~/train"))["name"] == "Iteration 3"
        listed = await client("GET", "~/iterations")
    assert same["code"] == "BadRequestTrainingNotNeeded"
    assert [one["name"] for one in listed] == ["Iteration 1", "Iteration 2", "Iteration 3"]


async def test_a_training_does_not_register_a_version_while_the_service_cannot_say_which_there_is(backing: Backing):
    def away(request: Any) -> Any:
        raise Unavailable(what="the store", problem="away")

    async with front(backing.answers | {"GetDataset": away}) as gateway:
        client = Client(gateway)
        tags = await client.create("owl", "jay")
        for shade, tag in enumerate(tags.values()):
            await client.add(picture(shade), tagIds=[tag])
        await client("POST", "~/train", 503)
    assert not backing.datasets


@pytest.mark.parametrize(
    ("tagged", "code"),
    [([["owl"]], "BadRequestTrainingValidationFailed"), ([["owl", "jay"], ["jay"]], "BadRequestImageTags")],
)
async def test_a_project_that_cannot_be_trained_on_says_why(backing: Backing, tagged: list[list[str]], code: str):
    async with served(backing) as client:
        tags = await client.create("owl", "jay")
        for shade, names in enumerate(tagged):
            await client.add(picture(shade), tagIds=[tags[name] for name in names])
        assert (await client("POST", "~/train", 400))["code"] == code
    assert not backing.datasets


def add_model(backing: Backing, project: str, name: str, state: Any = Model.SUCCEEDED, **fields: Any) -> Model:
    parameters = TrainingParameters(
        training_dataset=f"datasets/{project}",
        model_kind=TrainingParameters.GENERIC_CLASSIFIER,
        time_budget=Duration(seconds=30),
    )
    whole: dict[str, Any] = {"model_version": "v1", "create_time": Timestamp(seconds=1)} | fields
    backing.models[f"models/{name}"] = Model(
        name=f"models/{name}", training_parameters=parameters, state=state, etag="3", **whole
    )
    return backing.models[f"models/{name}"]


@pytest.mark.parametrize(
    ("state", "version", "word"),
    [
        (Model.NOT_STARTED, "", "New"),
        (Model.TRAINING, "v1", "Training"),
        (Model.CANCELLING, "v1", "Training"),
        (Model.SUCCEEDED, "v1", "Completed"),
        (Model.CANCELLED, "v1", "Completed"),
        (Model.CANCELLED, "", "Failed"),
        (Model.FAILED, "", "Failed"),
    ],
)
async def test_an_iteration_in_every_state(backing: Backing, state: Any, version: str, word: str):
    async with served(backing) as client:
        await client.create()
        add_model(backing, client.project, "i1", state, model_version=version, training_cost=Duration(seconds=61))
        found = await client("GET", "~/iterations/i1")
    assert found["status"] == word
    assert found["trainingTimeInMinutes"] == 2
    assert ("trainingErrorDetails" in found) == (state == Model.FAILED)


async def test_an_iteration_is_published_under_one_name_and_measured(backing: Backing):
    owl = TagPerformance(precision=0.5, recall=1.0, average_precision_50=0.75)
    tags = {"owl": owl, "unmeasured": TagPerformance(support=0)}
    async with served(backing) as client:
        await client.create()
        for name in ("i1", "i2"):
            add_model(
                backing, client.project, name, performance=ModelPerformance(average_precision=0.8, tag_performance=tags)
            )
        add_model(backing, client.project, "young", Model.TRAINING)
        early = await client("POST", "~/iterations/young/publish", 400, params={"publishName": "live"})
        assert await client("POST", "~/iterations/i1/publish", params={"publishName": "live"}) is True
        taken = await client("POST", "~/iterations/i2/publish", 400, params={"publishName": "live"})
        kept = await client("DELETE", "~/iterations/i1", 400)
        await client("DELETE", "~", 400)
        await client("POST", "~/iterations/i2/publish", params={"publishName": "live", "overwrite": "true"})
        names = {one["id"]: one.get("publishName") for one in await client("GET", "~/iterations")}
        measured = await client("GET", "~/iterations/i1/performance")
        none = await client("GET", "~/iterations/young/performance", 404)
        await client("DELETE", "~/iterations/i2/publish", 204)
        await client("PATCH", "~/iterations/i1", json={"name": "the best"})
        assert (await client("GET", "~/iterations/i1"))["name"] == "the best"
        await client("DELETE", "~/iterations/young", 204)
        await client("DELETE", "~", 204)
    assert (early["code"], taken["code"]) == ("BadRequestIterationIsNotTrained", "BadRequestInvalidPublishName")
    assert kept["code"] == "BadRequestIterationIsPublished"
    assert names == {"i1": None, "i2": "live", "young": None}
    assert (measured["precision"], measured["recall"], measured["averagePrecision"]) == (0.5, 1.0, 0.8)
    assert measured["perTagPerformance"][0]["name"] == "owl"
    assert none["code"] == "NotFoundIterationPerformance"
    assert not backing.models


async def test_an_iteration_of_another_project_is_not_found(backing: Backing):
    async with served(backing) as client:
        await client.create()
        add_model(backing, "another", "i1", custom_properties={PUBLISHED: "live"})
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/publish?publishName=x"), ("GET", "/performance")):
            assert (await client(method, f"~/iterations/i1{path}", 404))["code"] == "NotFoundIteration"


async def test_an_iteration_is_exported_for_one_platform(backing: Backing):
    async with served(backing) as client:
        await client.create()
        add_model(backing, client.project, "i1")
        made = await client("POST", "~/iterations/i1/export", params={"platform": "onnx"})
        listed = await client("GET", "~/iterations/i1/export")
        other = await client("POST", "~/iterations/i1/export", 400, params={"platform": "CoreML"})
        downloaded = await client.gateway("GET", made["downloadUri"])
    assert listed == [made]
    assert made["status"] == "Done"
    assert other["code"] == "BadRequestProjectUnsupportedExportPlatform"
    assert (downloaded.content, downloaded.headers["content-length"]) == (b"the zip", "7")


@pytest.mark.parametrize("path", ["/domains", "/domains/ee85a74c-405e-4adc-bb47-ffa8ca0c9f31"])
async def test_domains_are_those_that_scripts_look_for(backing: Backing, path: str):
    async with served(backing) as client:
        found = await client("GET", path)
        assert (await client("GET", "/domains/other", 404))["code"] == "NotFoundDomain"
        unknown = await client.gateway("GET", "/customvision/v2.0/training/domains")
    kinds = {(one["type"], one["name"]) for one in (found if isinstance(found, list) else [found])}
    assert ("Classification", "General") in kinds
    assert (("ObjectDetection", "General") in kinds) == isinstance(found, list)
    assert unknown.status_code == 400
