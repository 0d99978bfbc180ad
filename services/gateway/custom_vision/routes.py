"""The operations of this API."""

from services.gateway.custom_vision import iteration_calls as calls
from services.gateway.custom_vision.errors import rendered
from services.gateway.custom_vision.images import Images
from services.gateway.custom_vision.iterations import Published
from services.gateway.custom_vision.predictions import Predictions, quick_test
from services.gateway.custom_vision.project_files import ProjectFiles
from services.gateway.custom_vision.projects import Projects
from services.gateway.custom_vision.tags import Tags
from services.gateway.custom_vision.training import Training
from services.gateway.operations import Api, Operation

_IMAGE = ("multipart/form-data", "application/octet-stream")
_JSON = ("application/json",)
_REFUSED = (400, 401, 403, 404)
_DONE, _GONE = (200, *_REFUSED), (204, *_REFUSED)
_TRAINING = "/{version}/training"
_PROJECTS, _PROJECT = f"{_TRAINING}/projects", f"{_TRAINING}/projects/{{project}}"
_TAG, _IMAGES = f"{_PROJECT}/tags/{{tag}}", f"{_PROJECT}/images"
_ITERATION = f"{_PROJECT}/iterations/{{iteration}}"
_CHOICE = ("taggingStatus", "tagIds", "orderBy", "take", "skip")


def custom_vision() -> Api:
    """The API, with its own memory of published names and of projects' changes."""
    files = ProjectFiles()
    operations = (
        *_prediction(Predictions(Published())),
        *_projects(Projects(files)),
        *_tags(Tags(files)),
        *_images(Images(files)),
        *_iterations(Training(files)),
    )
    return Api("Custom Vision", "/customvision", operations, rendered)


def _prediction(predictions: Predictions) -> list[Operation]:
    found: list[Operation] = []
    for verb, summary in (("classify", "Classify an image"), ("detect", "Detect objects in an image")):
        handler = predictions.handler(detects=verb == "detect")
        for source, body in (("image", _IMAGE), ("url", _JSON)):
            path = f"/{{version}}/prediction/{{project}}/{verb}/iterations/{{name}}/{source}"
            found += [
                Operation("POST", path + end, handler, summary, (*_DONE, 413, 429), ("application",), body)
                for end in ("", "/nostore")
            ]
    for source, body in (("image", _IMAGE), ("url", _JSON)):
        path, query = f"{_PROJECT}/quicktest/{source}", ("iterationId", "store")
        found.append(Operation("POST", path, quick_test, "Test an iteration", (*_DONE, 413, 429), query, body))
    return found


def _projects(projects: Projects) -> list[Operation]:
    create = ("name", "description", "domainId", "classificationType")
    return [
        Operation("GET", f"{_TRAINING}/domains", projects.domains, "List domains", _DONE),
        Operation("GET", f"{_TRAINING}/domains/{{domain}}", projects.domain, "Get a domain", _DONE),
        Operation("POST", _PROJECTS, projects.create, "Create a project", _DONE, create, _JSON),
        Operation("GET", _PROJECTS, projects.list_all, "List projects", _DONE),
        Operation("GET", _PROJECT, projects.get, "Get a project", _DONE),
        Operation("PATCH", _PROJECT, projects.update, "Change a project", _DONE, (), _JSON),
        Operation("DELETE", _PROJECT, projects.delete, "Delete a project", _GONE),
    ]


def _tags(tags: Tags) -> list[Operation]:
    fields = ("name", "description", "type")
    return [
        Operation("POST", f"{_PROJECT}/tags", tags.create, "Create a tag", _DONE, fields),
        Operation("GET", f"{_PROJECT}/tags", tags.list_all, "List tags", _DONE),
        Operation("GET", _TAG, tags.get, "Get a tag", _DONE),
        Operation("PATCH", _TAG, tags.update, "Change a tag", _DONE, (), _JSON),
        Operation("DELETE", _TAG, tags.delete, "Delete a tag", _GONE),
    ]


def _images(images: Images) -> list[Operation]:
    added = (200, 207, *_REFUSED, 413)
    found = [
        Operation("POST", _IMAGES, images.create_from_data, "Add images of a form", added, ("tagIds",), _IMAGE),
        Operation("POST", f"{_IMAGES}/files", images.create_from_files, "Add images in base64", added, (), _JSON),
        Operation("POST", f"{_IMAGES}/urls", images.create_from_urls, "Add images of the store", added, (), _JSON),
        Operation("DELETE", _IMAGES, images.delete, "Delete images", _GONE, ("imageIds", "allImages")),
        Operation("GET", f"{_IMAGES}/id", images.by_ids, "Get images", _DONE, ("imageIds",)),
        Operation("POST", f"{_IMAGES}/tags", images.tag, "Tag images", _DONE, (), _JSON),
        Operation("DELETE", f"{_IMAGES}/tags", images.untag, "Take tags off images", _GONE, ("imageIds", "tagIds")),
        Operation("POST", f"{_IMAGES}/regions", images.add_regions, "Add regions", _DONE, (), _JSON),
        Operation("DELETE", f"{_IMAGES}/regions", images.delete_regions, "Delete regions", _GONE, ("regionIds",)),
    ]
    for which in ("", "/tagged", "/untagged"):
        summary = f"images{' that are ' + which[1:] if which else ''}"
        found += [
            Operation("GET", f"{_IMAGES}{which}", images.list_some, f"List {summary}", _DONE, _CHOICE),
            Operation("GET", f"{_IMAGES}{which}/count", images.count, f"Count {summary}", _DONE, _CHOICE[:2]),
        ]
    return found


def _iterations(training: Training) -> list[Operation]:
    options = ("trainingType", "reservedBudgetInHours", "forceTrain")
    publishing = ("publishName", "predictionId", "overwrite")
    return [
        Operation("POST", f"{_PROJECT}/train", training.train, "Train an iteration", _DONE, options, _JSON),
        Operation("GET", f"{_PROJECT}/iterations", calls.list_all, "List iterations", _DONE),
        Operation("GET", _ITERATION, calls.get, "Get an iteration", _DONE),
        Operation("PATCH", _ITERATION, calls.update, "Rename an iteration", _DONE, (), _JSON),
        Operation("DELETE", _ITERATION, calls.delete, "Delete an iteration", _GONE),
        Operation("GET", f"{_ITERATION}/performance", calls.performance, "Get its performance", _DONE),
        Operation("POST", f"{_ITERATION}/publish", calls.publish, "Publish an iteration", _DONE, publishing),
        Operation("DELETE", f"{_ITERATION}/publish", calls.unpublish, "Unpublish an iteration", _GONE),
        Operation("POST", f"{_ITERATION}/export", calls.export, "Export an iteration", _DONE, ("platform", "flavor")),
        Operation("GET", f"{_ITERATION}/export", calls.exports, "List exports", _DONE),
        Operation("GET", f"{_ITERATION}/export/ONNX", calls.download, "Download an export", _DONE),
    ]
