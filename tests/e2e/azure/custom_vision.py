"""With azure-cognitiveservices-vision-customvision: projects from their images to predictions.

    python custom_vision.py ENDPOINT KEY BLOBS FOLDER

Prints what it got as JSON.
"""

import json
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from azure.cognitiveservices.vision.customvision.prediction import CustomVisionPredictionClient
from azure.cognitiveservices.vision.customvision.training import CustomVisionTrainingClient
from azure.cognitiveservices.vision.customvision.training.models import (
    CustomVisionErrorException,
    ImageFileCreateBatch,
    ImageFileCreateEntry,
    ImageRegionCreateEntry,
    ImageTagCreateEntry,
    ImageUrlCreateBatch,
    ImageUrlCreateEntry,
    Region,
    Tag,
)
from msrest.authentication import ApiKeyCredentials

endpoint, key, blobs, folder = sys.argv[1:]
trainer = CustomVisionTrainingClient(endpoint, ApiKeyCredentials(in_headers={"Training-key": key}))
predictor = CustomVisionPredictionClient(endpoint, ApiKeyCredentials(in_headers={"Prediction-key": key}))


def read(name: str, part: str) -> tuple[dict, dict, list]:
    coco = json.loads((Path(folder) / name / f"{part}.json").read_text())
    names = {one["id"]: one["name"] for one in coco["categories"]}
    labels = {one["image_id"]: one for one in coco["annotations"]}
    return coco, names, [(one, labels[one["id"]]) for one in coco["images"]]


def trained(project: str) -> object:
    iteration = trainer.train_project(project)
    while iteration.status not in ("Completed", "Failed"):
        time.sleep(0.5)
        iteration = trainer.get_iteration(project, iteration.id)
    assert iteration.status == "Completed", iteration.training_error_details
    return iteration


def renamed(name: str) -> Tag:
    return Tag(name=name, description="", type="Regular")


def refused(call: Callable[[], object]) -> str:
    try:
        call()
    except CustomVisionErrorException as error:
        return error.error.code
    return ""


def classify() -> dict:
    project = trainer.create_project("trees", classification_type="Multiclass")
    _, names, images = read("hemlock_cherry", "train")
    drafts = {number: trainer.create_tag(project.id, f"draft of {name}") for number, name in names.items()}
    tags = {number: trainer.update_tag(project.id, tag.id, renamed(names[number])) for number, tag in drafts.items()}
    for number, tag in tags.items():
        entries = [
            ImageFileCreateEntry(
                name=image["file_name"],
                contents=(Path(folder) / "hemlock_cherry" / image["file_name"]).read_bytes(),
                tag_ids=[tag.id],
            )
            for image, label in images
            if label["category_id"] == number
        ]
        half = len(entries) // 2
        for batch in (entries[:half], entries[half:]):
            uploaded = trainer.create_images_from_files(project.id, ImageFileCreateBatch(images=batch))
            assert uploaded.is_batch_successful, [one.status for one in uploaded.images]
    again = trainer.create_images_from_files(project.id, ImageFileCreateBatch(images=entries[:1]))
    iteration = trained(project.id)
    content = (Path(folder) / "hemlock_cherry" / images[0][0]["file_name"]).read_bytes()
    quick = trainer.quick_test_image(project.id, content, iteration_id=iteration.id, store=False)
    trainer.publish_iteration(project.id, iteration.id, "live", str(uuid.uuid4()))
    _, names, tests = read("hemlock_cherry", "test")
    right = 0
    for image, label in tests:
        with (Path(folder) / "hemlock_cherry" / image["file_name"]).open("rb") as content:
            found = predictor.classify_image(project.id, "live", content.read())
        right += found.predictions[0].tag_name == names[label["category_id"]]
    url = f"{blobs}/hemlock_cherry/images/0014.jpg"
    by_url = predictor.classify_image_url_with_no_store(project.id, "live", url=url)
    performance = trainer.get_iteration_performance(project.id, iteration.id, threshold=0.5)
    return {
        "projects": [one.name for one in trainer.get_projects()],
        "again": again.images[0].status,
        "tagged": trainer.get_tagged_image_count(project.id),
        "tags": {one.name: one.image_count for one in trainer.get_tags(project.id)},
        "repeated": refused(lambda: trainer.train_project(project.id)),
        "multilabel": refused(lambda: trainer.create_project("many", classification_type="Multilabel")),
        "renamed": sorted(one.tag_id for one in quick.predictions) == sorted(tag.id for tag in tags.values()),
        "quick": [one.tag_name for one in trainer.quick_test_image_url(project.id, url).predictions],
        "published": trainer.get_iteration(project.id, iteration.id).publish_name,
        "right": right,
        "images": len(tests),
        "by_url": len(by_url.predictions),
        "same_ids": {one.tag_id for one in by_url.predictions} == {tag.id for tag in tags.values()},
        "precision": [one.precision for one in performance.per_tag_performance],
        "project": project.id,
    }


def detect() -> dict:
    domain = next(one for one in trainer.get_domains() if one.type == "ObjectDetection" and one.name == "General")
    project = trainer.create_project("cutlery", domain_id=domain.id)
    _, names, images = read("fork_scissors", "train")
    tags = {number: trainer.create_tag(project.id, name).id for number, name in names.items()}
    entries = []
    for image, label in images:
        x, y, w, h = label["bbox"]
        box = {"left": x / image["width"], "top": y / image["height"], "width": w / image["width"]}
        region = Region(tag_id=tags[label["category_id"]], **box, height=h / image["height"])
        entries.append(ImageUrlCreateEntry(url=f"{blobs}/fork_scissors/{image['file_name']}", regions=[region]))
    uploaded = trainer.create_images_from_urls(project.id, ImageUrlCreateBatch(images=entries))
    assert uploaded.is_batch_successful
    first = uploaded.images[0].image
    drawn = ImageRegionCreateEntry(image_id=first.id, tag_id=tags[1], left=0.1, top=0.1, width=0.2, height=0.2)
    created = trainer.create_image_regions(project.id, [drawn]).created
    trainer.delete_image_regions(project.id, [one.region_id for one in created])
    (kept,) = trainer.get_images_by_ids(project.id, [first.id])
    unused = trainer.create_tag(project.id, "unused")
    trainer.create_image_tags(project.id, [ImageTagCreateEntry(image_id=first.id, tag_id=unused.id)])
    trainer.delete_tag(project.id, unused.id)
    iteration = trained(project.id)
    trainer.publish_iteration(project.id, iteration.id, "live", str(uuid.uuid4()))
    _, names, tests = read("fork_scissors", "test")
    best = []
    for image, label in tests:
        with (Path(folder) / "fork_scissors" / image["file_name"]).open("rb") as content:
            found = predictor.detect_image(project.id, "live", content.read()).predictions
        box = found[0].bounding_box if found else None
        best.append([bool(found) and found[0].tag_name == names[label["category_id"]], box is None or box.left < 1])
    trainer.unpublish_iteration(project.id, iteration.id)
    trainer.delete_iteration(project.id, iteration.id)
    trainer.delete_project(project.id)
    return {"best": best, "regions": len(kept.regions), "left": [one.name for one in trainer.get_projects()]}


print(json.dumps({"classify": classify(), "detect": detect()}))
