"""`train`: the project as it is now becomes the next version of its dataset, and a model is trained on that."""

import hashlib
import uuid

import msgspec
from google.protobuf.duration_pb2 import Duration
from starlette.responses import JSONResponse, Response

from services.gateway.custom_vision import iterations, tag_ids
from services.gateway.custom_vision.domains import KINDS, Domain, domain_of
from services.gateway.custom_vision.errors import BadRequest
from services.gateway.custom_vision.image_state import CORNERS, tags_of
from services.gateway.custom_vision.iteration_json import iteration_json
from services.gateway.custom_vision.project_files import IMAGES, Json, ProjectFiles
from services.gateway.custom_vision.versions import check_version
from services.gateway.exchange import Exchange
from services.gateway.upstream import if_found
from sightline.v1 import dataset_service_pb2 as pb
from sightline.v1 import model_service_pb2
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.model_pb2 import Model, TrainingParameters

REGULAR, ADVANCED = "Regular", "Advanced"
SECONDS_OF_AN_HOUR = 3600


class Training:
    """The handler of `train`."""

    def __init__(self, files: ProjectFiles) -> None:
        self._files = files

    async def train(self, exchange: Exchange) -> Response:
        """Starts an iteration; BadRequest if nothing has changed since the last one, unless `forceTrain`."""
        check_version(exchange)
        project, session = exchange.path("project"), exchange.session
        state = await self._files.state(session, project)
        selected = (await exchange.json()).texts("selectedTags")
        domain = domain_of(state["project"]["domainId"])
        content = msgspec.json.encode(annotations(state, domain, set(selected)))
        digest = hashlib.sha256(content).hexdigest()
        kind, budget = _budget(exchange)
        earlier = [model async for model in iterations.of_project(session, project)]
        last = max(earlier, key=lambda model: model.create_time.ToNanoseconds(), default=None)
        forced = exchange.query("forceTrain").lower() == "true"
        if last and last.custom_properties.get(iterations.DIGEST) == digest and not forced:
            problem = "nothing has changed since the last iteration; set forceTrain to train anyway"
            raise BadRequest("BadRequestTrainingNotNeeded", field="project", problem=problem)
        await self._register(exchange, project, domain, digest, content)
        properties = {
            iterations.NAME: f"Iteration {len(earlier) + 1}",
            iterations.DIGEST: digest,
            iterations.KIND: kind,
            iterations.DOMAIN: domain.id,
            **tag_ids.properties(project, _trained_tags(state, set(selected))),
        }
        parameters = TrainingParameters(
            training_dataset=f"datasets/{project}", time_budget=budget, model_kind=KINDS[domain.type][1]
        )
        model = Model(training_parameters=parameters, custom_properties=properties)
        request = model_service_pb2.CreateModelRequest(model=model, model_id=str(uuid.uuid4()))
        created = await session.call(session.services.models.CreateModel, request)
        return JSONResponse(iteration_json(created))

    async def _register(self, exchange: Exchange, project: str, domain: Domain, digest: str, content: bytes) -> None:
        """Makes the annotations the dataset's current version, unless they are that already."""
        session, path = exchange.session, f"annotations-{digest}.json"
        uris = await self._files.store(session, project, {path: content})
        datasets = session.services.datasets
        with if_found():  # there is none before the first training
            request = pb.GetDatasetRequest(name=f"datasets/{project}")
            known = await session.call(datasets.GetDataset, request)
            if list(known.annotation_file_uris) == [uris[path]] and known.state != Dataset.FAILED:
                return
        dataset = Dataset(annotation_kind=KINDS[domain.type][0], annotation_file_uris=[uris[path]])
        create = pb.CreateDatasetRequest(dataset=dataset, dataset_id=project, new_version=True)
        await session.call(datasets.CreateDataset, create)


def annotations(state: Json, domain: Domain, selected: set[str]) -> Json:
    """The project as a COCO file; BadRequest if it cannot be trained on. Boxes are fractions of the image."""
    tags = _trained_tags(state, selected)
    numbers = {one: number for number, one in enumerate(sorted(tags, key=lambda one: tags[one]["name"]), 1)}
    images: list[Json] = []
    found: list[Json] = []
    for one, image in sorted(state.get("images", {}).items()):
        labels = _labels(state, image, domain, numbers)
        if labels is None:
            continue
        number = len(images) + 1
        place = {"coco_url": image["uri"]} if image.get("uri") else {}
        images.append(
            {"id": number, "file_name": place.get("coco_url", "").rpartition("/")[2] or IMAGES + one, **place}
        )
        found += [{"id": len(found) + index, "image_id": number, **label} for index, label in enumerate(labels, 1)]
    used = {label["category_id"] for label in found}
    if len(used) < domain.least_tags:
        problem = f"a training needs images of at least {domain.least_tags} tags, and there are images of {len(used)}"
        raise BadRequest("BadRequestTrainingValidationFailed", field="project", problem=problem)
    categories = [{"id": number, "name": tags[one]["name"]} for one, number in numbers.items() if number in used]
    return {"images": images, "annotations": found, "categories": categories}


def _trained_tags(state: Json, selected: set[str]) -> Json:
    """The tags that a model learns; all, or those selected."""
    return {
        one: tag
        for one, tag in state.get("tags", {}).items()
        if tag["type"] == REGULAR and (not selected or one in selected)
    }


def _labels(state: Json, image: Json, domain: Domain, numbers: dict[str, int]) -> list[Json] | None:
    """The annotations of an image, without ids; None to leave the image out."""
    if domain.detects:
        regions = sorted(image.get("regions", {}).items())
        boxes = [
            {
                "category_id": numbers[region["tagId"]],
                "bbox": [region[corner] for corner in CORNERS],
            }
            for _, region in regions
            if region["tagId"] in numbers
        ]
        return boxes if boxes or tags_of(state, image) else None  # with a negative tag: background
    has = sorted(numbers[tag] for tag in tags_of(state, image) if tag in numbers)
    if len(has) > 1:
        problem = "an image has several tags; here a classifier learns one tag for each image"
        raise BadRequest("BadRequestImageTags", field="images", problem=problem)
    return [{"category_id": number} for number in has] or None


def _budget(exchange: Exchange) -> tuple[str, Duration]:
    """The kind of training, and its budget."""
    kind, hours = exchange.query("trainingType") or REGULAR, exchange.query("reservedBudgetInHours")
    seconds = exchange.settings.quick_training_seconds
    if kind == ADVANCED or hours not in ("", "0"):
        try:
            seconds = float(hours) * SECONDS_OF_AN_HOUR
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < 1e9:
            raise BadRequest(
                "BadRequestTrainingBudget", field="reservedBudgetInHours", problem="hours above 0 are required"
            )
        kind = ADVANCED
    found = Duration()
    found.FromNanoseconds(round(seconds * 1e9))
    return kind, found
