"""`Client` and `AsyncClient` against fake services."""

from __future__ import annotations

import inspect
import json
import threading
from contextlib import contextmanager
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.status_pb2 import Status

import sightline
from sightline import Addresses, AsyncClient, Box, Client, Credentials, Hyperparameters, Object, Tag, errors
from sightline.client.datasets import AsyncDatasets, Datasets
from sightline.client.evaluations import AsyncEvaluations, Evaluations
from sightline.client.models import AsyncModels, Models
from sightline.client.projects import AsyncProjects, Projects
from sightline.client.results.trial import FeatureUse, NameUse
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.dataset_service_pb2 import ReadImagesRequest
from sightline.v1.evaluation_pb2 import Evaluation
from sightline.v1.finding_pb2 import Finding
from sightline.v1.model_pb2 import Model, TrainingParameters
from sightline.v1.model_service_pb2 import EstimateTrainingRequest
from sightline.v1.prediction_service_pb2 import AnalyzeImageRequest, SuggestImagesResponse
from sightline.v1.project_pb2 import ComputeQuota, CountQuota, Project
from sightline.v1.trial_pb2 import NameUse as NameUseMessage
from sightline.v1.trial_pb2 import Recipe, Trial
from tests.unit.cli.fakes import Fakes, status

E = "models/m/evaluations/e"


def trained(fakes: Fakes) -> Model:
    """A model whose training has ended, as the service returns it."""
    model = Model(name="models/m", state=Model.SUCCEEDED, stop_reason=Model.CONVERGED, model_version="v1")
    model.performance.accuracy_top1 = 0.9
    model.training_cost.FromSeconds(8)
    model.create_time.FromDatetime(datetime(2026, 1, 2, tzinfo=UTC))
    model.ledger.add(trial="models/m/trials/t000", attempt=1, charged=True).duration.FromSeconds(8)
    fakes.models[model.name] = model
    return model


def test_a_dataset_is_uploaded_registered_and_awaited(client: Client, fakes: Fakes, coco: Path) -> None:
    made = client.datasets.register("birds", coco=str(coco))
    assert (made.name, made.state, made.kind) == ("datasets/birds", "READY", "classification")
    assert set(fakes.files) == {"coco.json", "a.png"}
    assert fakes.datasets["datasets/birds"].annotation_kind == Dataset.IMAGE_CLASSIFICATION
    assert client.datasets.register("later", coco=coco, wait=False).state == "VALIDATING"
    assert client.datasets.get("later").wait().state == "READY"


@pytest.mark.parametrize("box", [{"bbox": [1, 2, 3, 4]}, {"segmentation": [[1, 2, 3, 4, 5, 6]]}])
def test_a_dataset_with_boxes_is_for_detection_unless_its_kind_is_given(
    client: Client, coco: Path, box: dict[str, object]
) -> None:
    content = json.loads(coco.read_text())
    content["annotations"].append({"image_id": 1, "category_id": 1, **box})
    coco.write_text(json.dumps(content))
    assert client.datasets.register("boxes", coco=coco).kind == "detection"
    assert client.datasets.register("tags", coco=coco, kind="classification").kind == "classification"


def test_annotations_in_the_store_are_not_uploaded(client: Client, fakes: Fakes) -> None:
    client.datasets.register("birds", coco="s3://sightline/birds.json", kind="detection")
    assert not fakes.files
    with pytest.raises(ValueError, match="kind='classification' or kind='detection'"):
        client.datasets.register("birds", coco="s3://sightline/birds.json")


def test_all_missing_images_are_named_before_anything_is_sent(client: Client, fakes: Fakes, coco: Path) -> None:
    content = json.loads(coco.read_text())
    content["images"] += [{"id": 7, "file_name": "gone.png"}, {"id": 8, "file_name": "../out.png"}]
    coco.write_text(json.dumps(content))
    with pytest.raises(errors.ImagesMissing, match=r"image id 7: gone.png: there is no file") as caught:
        client.datasets.register("birds", coco=coco)
    assert [image.image_id for image in caught.value.images] == [7, 8]
    assert not fakes.requests


def test_datasets_are_listed_described_and_deleted(client: Client, fakes: Fakes) -> None:
    for number in range(5):
        fakes.datasets[f"datasets/d{number}"] = Dataset(name=f"datasets/d{number}", state=Dataset.READY)
    fakes.datasets["datasets/d0"].stats.image_count = 12
    fakes.datasets["datasets/d0"].stats.categories.add(name="cat", image_count=12, annotation_count=13)
    fakes.findings = [
        Finding(severity=Finding.ERROR, code="x", file="a.png", image_id=0, message="Bad.", remedy="Mend.")
    ]
    assert [one.name for one in client.datasets.list()] == [f"datasets/d{number}" for number in range(5)]
    assert client.datasets.get("d1").image_count is None, "the service has no statistics yet"
    (category,) = client.datasets.get("d0").categories
    assert (category.name, category.image_count, category.annotation_count) == ("cat", 12, 13)
    (finding,) = client.datasets.findings(client.datasets.get("d0"))
    assert (finding.severity, finding.image_id, finding.annotation_id) == ("ERROR", 0, None)
    assert (finding.text, finding.remedy) == ("Bad.", "Mend.")
    client.datasets.delete("d0")
    with pytest.raises(errors.DatasetNotFound, match="datasets/d0 does not exist"):
        client.datasets.get("d0")


@pytest.mark.parametrize(
    ("budget", "seconds"), [("10m", 600), ("1h30m", 5400), (90, 90), (0.5, 0.5), (timedelta(minutes=3), 180)]
)
def test_common_spellings_of_a_budget_are_accepted(
    client: Client, fakes: Fakes, budget: str | float | timedelta, seconds: float
) -> None:
    fakes.datasets["datasets/d"] = Dataset(name="datasets/d", annotation_kind=Dataset.OBJECT_DETECTION)
    model = client.models.train("m", dataset="d", budget=budget)
    assert model.budget == timedelta(seconds=seconds)
    assert (model.kind, model.state) == ("detector", "NOT_STARTED")


def test_an_export_that_breaks_off_continues_where_it_was(client: Client, fakes: Fakes, tmp_path: Path) -> None:
    fakes.archives = [fakes.archive, fakes.archive]
    exported = client.models.export("m", tmp_path / "m.zip")
    assert exported.path.read_bytes() == fakes.archive
    assert (exported.model, exported.format, exported.version) == ("models/m", "onnx", "v1")
    assert (exported.size_bytes, exported.max_difference) == (len(fakes.archive), 3e-8)
    assert len(fakes.requests) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["m.zip"]


def test_an_export_that_continues_as_another_archive_starts_over(client: Client, fakes: Fakes, tmp_path: Path) -> None:
    fakes.archives = [b"of the version before" * 200_000]
    assert client.models.export("m", tmp_path / "m.zip").path.read_bytes() == fakes.archive


def test_a_damaged_export_leaves_the_file_as_it_was(client: Client, fakes: Fakes, tmp_path: Path) -> None:
    (tmp_path / "m.zip").write_bytes(b"the last one")
    fakes.archive_sha256 = "00" * 32
    with pytest.raises(errors.InternalError, match="arrived damaged"):
        client.models.export("m", tmp_path / "m.zip")
    fakes.errors["ExportModel"] = [
        status(grpc.StatusCode.FAILED_PRECONDITION, "ExportUnavailable", "models/m cannot be exported as onnx: why.")
    ]
    with pytest.raises(errors.ExportUnavailable, match="cannot be exported"):
        client.models.export("m", tmp_path / "m.zip")
    assert (tmp_path / "m.zip").read_bytes() == b"the last one"
    assert [path.name for path in tmp_path.iterdir()] == ["m.zip"]


async def test_an_export_works_with_asyncio(aio: AsyncClient, fakes: Fakes, tmp_path: Path) -> None:
    fakes.archives = [b"of the version before" * 200_000]
    exported = await aio.models.export("m", tmp_path, format="openvino")  # the service names a file outside
    assert exported.path == tmp_path / "m-v1-onnx.zip"
    assert exported.path.read_bytes() == fakes.archive


def test_an_estimate_has_types(client: Client, fakes: Fakes) -> None:
    fakes.datasets["datasets/d"] = Dataset(name="datasets/d", annotation_kind=Dataset.IMAGE_CLASSIFICATION)
    fakes.estimate.minimum_budget.FromSeconds(12)
    fakes.estimate.suggested_budget.FromSeconds(90)
    fakes.estimate.metric_name = "accuracy_top1"
    known, unknown = fakes.estimate.outlook.add(metric_value=0.8), fakes.estimate.outlook.add()
    known.interval.low, known.interval.high, known.interval.level = 0.7, 0.9, 0.95
    unknown.expected_cost.FromSeconds(80)
    estimate = client.models.estimate(
        dataset="d", base_model="m", hyperparameters=Hyperparameters(max_rung=0), timeout=100
    )
    assert (estimate.minimum_budget, estimate.suggested_budget) == (timedelta(seconds=12), timedelta(seconds=90))
    assert estimate.outlook[0].value == 0.8
    assert estimate.outlook[0].interval is not None
    assert estimate.outlook[0].interval.low == 0.7
    assert (estimate.outlook[1].value, estimate.outlook[1].interval) == (None, None)
    assert estimate.outlook[1].expected_cost == timedelta(seconds=80)
    assert 80 < fakes.patience < 105
    asked = fakes.requests[-1]
    assert isinstance(asked, EstimateTrainingRequest)
    assert asked.training_parameters.hyperparameters.HasField("max_rung")


def test_a_malformed_budget_is_refused_before_any_call(client: Client, fakes: Fakes) -> None:
    with pytest.raises(ValueError, match="'ten minutes' is not a duration; write it as 90s, 10m or 1h30m"):
        client.models.train("m", dataset="d", budget="ten minutes", kind="classifier")
    assert not fakes.requests


def test_a_training_is_started_with_hyperparameters_and_awaited(client: Client, fakes: Fakes, coco: Path) -> None:
    birds = client.datasets.register("birds", coco=coco)
    narrowed = Hyperparameters(seed=3, backbones=("resnet18",), max_rung=0)
    model = client.models.train("m", dataset=birds, budget="10m", test_dataset="held-out", hyperparameters=narrowed)
    wanted = fakes.models["models/m"].training_parameters
    assert (wanted.training_dataset, wanted.model_kind) == ("datasets/birds", TrainingParameters.GENERIC_CLASSIFIER)
    assert (wanted.hyperparameters.seed, list(wanted.hyperparameters.backbones)) == (3, ["resnet18"])
    assert wanted.hyperparameters.HasField("max_rung")
    assert not wanted.hyperparameters.HasField("max_trials")
    assert fakes.models["models/m"].evaluation_parameters.test_dataset == "datasets/held-out"
    trained(fakes)
    done = model.wait()
    assert (done.state, done.stop_reason, done.performance.accuracy_top1) == ("SUCCEEDED", "CONVERGED", 0.9)
    assert done.performance.accuracy_top5 is None
    assert (done.cost, done.ledger[0].duration) == (timedelta(seconds=8), timedelta(seconds=8))
    assert done.create_time == datetime(2026, 1, 2, tzinfo=UTC)
    assert model == client.models.train("m", dataset=birds, budget="10m", test_dataset="held-out"), (
        "models compare by value"
    )
    with pytest.raises(FrozenInstanceError):
        done.name = "other"  # pyright: ignore[reportAttributeAccessIssue] - it is frozen


def test_models_are_listed_with_their_trials_cancelled_and_deleted(client: Client, fakes: Fakes) -> None:
    trained(fakes)
    recipe = Recipe(backbones=["resnet18"], head="linear", depth=Recipe.HEAD, epochs=3)
    fakes.trials = [Trial(name="models/m/trials/t000", score=0.5, recipe=recipe, state=Trial.SUCCEEDED)]
    (trial,) = client.models.trials("m")
    assert (trial.score, trial.standard_error, trial.state) == (0.5, None, "SUCCEEDED")
    assert (trial.recipe.backbones, trial.recipe.depth, trial.recipe.epochs) == (("resnet18",), "HEAD", 3)
    assert trial.recipe.learning_rate is None
    assert trial.features is None
    fakes.trials[0].features.reused_blocks = 2
    fakes.trials[0].features.saved.FromSeconds(7)
    (trial,) = client.models.trials("m")
    assert trial.features == FeatureUse(reused=2, computed=0, saved=timedelta(seconds=7))
    assert trial.category_names is None
    fakes.trials[0].category_names.CopyFrom(NameUseMessage(effect=NameUseMessage.CENTRE, network="net", scale=0.5))
    (trial,) = client.models.trials("m")
    assert trial.category_names == NameUse(effect="CENTRE", network="net", scale=0.5)
    assert [one.name for one in client.models.list()] == ["models/m"]
    assert client.models.cancel("m").state == "CANCELLING"
    client.models.delete("m")
    assert client.models.list() == ()


def test_waiting_for_a_resource_that_fails_raises_its_error_with_its_name(client: Client, fakes: Fakes) -> None:
    failed = trained(fakes)
    failed.state = Model.FAILED
    failed.error.CopyFrom(status(grpc.StatusCode.FAILED_PRECONDITION, "diverged", "The loss became nan."))
    with pytest.raises(errors.Diverged, match="models/m failed: The loss"):
        client.models.wait("m")
    assert isinstance(client.models.get("m").error, errors.Diverged), "reading it raises nothing"


def test_an_evaluation_is_awaited_listed_and_deleted(client: Client, fakes: Fakes) -> None:
    fakes.evaluations[E] = Evaluation(name=E, state=Evaluation.SUCCEEDED)
    fakes.evaluations[E].performance.mean_average_precision_50 = 0.4
    fakes.evaluations[E].performance.intervals["mean_average_precision_50"].low = 0.3
    fakes.evaluations[E].performance.coverage.unknown_categories.add(name="owl", similar_category="Owl")
    evaluation = client.evaluations.create("m", "e", dataset="held-out")
    assert evaluation.performance.mean_average_precision_50 == 0.4
    assert evaluation.performance.intervals["mean_average_precision_50"].low == 0.3
    assert evaluation.performance.coverage
    assert evaluation.performance.coverage.unknown_categories[0].similar_category == "Owl"
    assert client.evaluations.get(evaluation) == evaluation == client.evaluations.list("m")[0]
    client.evaluations.delete(evaluation)
    assert not fakes.evaluations


def test_tags_and_objects_have_the_same_interface(client: Client, fakes: Fakes, photo: Path) -> None:
    seen = client.predict("m", photo)
    assert list(seen) == [Tag("cat", 0.75), Tag("dog", 0.25)]
    assert (seen.kind, seen.image, seen.width, seen.height) == ("classifier", str(photo), 64, 48)
    fakes.objects = [("cat", 0.5, (0, 1, 32, 24))]
    found = client.predict("m", photo.read_bytes())
    assert found[0] == Object(Box(0, 1, 32, 24), (Tag("cat", 0.5),))
    assert (found[0].name, found[0].confidence, found.kind) == ("cat", 0.5, "detector")
    fakes.objects = []
    assert len(client.predict("m", "s3://sightline/a.png")) == 0


def test_the_request_follows_the_arguments(client: Client, fakes: Fakes, photo: Path) -> None:
    client.predict("m", "s3://sightline/a.png", threshold=0, top=2)
    client.predict("models/m", str(photo), suggested_thresholds=True)
    stored, read = (one for one in fakes.requests if isinstance(one, AnalyzeImageRequest))
    assert (stored.uri, stored.score_threshold, stored.max_results) == ("s3://sightline/a.png", 0, 2)
    assert stored.HasField("score_threshold")
    assert (read.model_name, read.image, read.use_suggested_thresholds) == ("models/m", photo.read_bytes(), True)
    with pytest.raises(ValueError, match="only one of them"):
        client.predict("m", photo, threshold=0.5, suggested_thresholds=True)


def test_an_explanation_has_rows_of_weights_and_a_picture(client: Client, photo: Path) -> None:
    found = client.explain("m", photo, "dog")
    assert (found.image, found.tag.name, found.tag.confidence) == (str(photo), "dog", 0.75)
    assert found.weights == ((0.0, 0.0, 1.0), (0.0, 0.5, 0.0))
    assert found.overlay_png == b"PNG of dog"
    assert client.explain("m", photo.read_bytes()).tag.name == "cat"
    assert client.explain("m", "s3://sightline/a.png").image == "s3://sightline/a.png"


def test_a_prediction_set_comes_with_the_coverage_that_was_requested(client: Client, photo: Path) -> None:
    assert client.predict("m", photo).prediction_set is None
    found = client.predict("m", photo, coverage=0.9).prediction_set
    assert found is not None
    assert (found.coverage, found.categories) == (0.9, ("cat", "dog"))
    (among,) = client.predict_many("m", [photo], coverage=0.8)
    assert among.prediction_set is not None
    assert among.prediction_set.coverage == 0.8


def test_a_coverage_that_the_model_cannot_give_has_the_highest_that_it_can(
    client: Client, fakes: Fakes, photo: Path
) -> None:
    refusal = status(grpc.StatusCode.FAILED_PRECONDITION, "CoverageUnavailable", "No.", highest_coverage="0.8")
    fakes.errors["AnalyzeImage"] = [refusal]
    with pytest.raises(errors.CoverageUnavailable) as refused:
        client.predict("m", photo, coverage=0.9)
    assert refused.value.highest == 0.8


def test_a_refused_image_does_not_affect_the_others(client: Client, fakes: Fakes, photo: Path) -> None:
    refusal = status(
        grpc.StatusCode.INVALID_ARGUMENT, "InvalidImageSize", "image: is 40 x 40 pixels", file="image", problem="is"
    )
    fakes.errors["AnalyzeImage"] = [refusal]
    predictions = list(client.predict_many("m", [photo] * 20))
    assert len(predictions) == 20
    (failed,) = [one for one in predictions if one.error]
    assert isinstance(failed.error, errors.InvalidImageSize)
    assert failed.error.message == f"{photo}: is 40 x 40 pixels", "it is named by its file"
    with pytest.raises(errors.InvalidImageSize):
        _ = failed[0]


def test_an_error_that_concerns_every_image_is_raised(client: Client, fakes: Fakes, photo: Path) -> None:
    fakes.errors["AnalyzeImage"] = [status(grpc.StatusCode.NOT_FOUND, "ModelNotFound", "models/m is missing.")] * 1000
    with pytest.raises(errors.ModelNotFound):
        list(client.predict_many("m", [photo] * 1000))
    assert len(fakes.requests) < 100


def test_a_file_too_large_for_a_message_is_refused_by_the_client(client: Client, fakes: Fakes, tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(24 * 2**20)
    with pytest.raises(errors.InvalidImageSize, match=r"large.png is 24.0 MiB"):
        client.predict("m", tmp_path / "large.png")
    assert not fakes.requests


def test_an_unreadable_file_is_named_and_does_not_affect_the_others(
    client: Client, photo: Path, tmp_path: Path
) -> None:
    gone, seen = client.predict_many("m", [tmp_path / "gone.png", photo])
    assert isinstance(gone.error, errors.ImageUnreadable)
    assert gone.error.message == f"{tmp_path / 'gone.png'} cannot be read: No such file or directory"
    assert seen[0] == Tag("cat", 0.75)
    with pytest.raises(errors.ImageUnreadable):
        client.predict("m", "gone.png")


@pytest.mark.usefixtures("quick_retries")
def test_an_unreachable_service_is_reported_with_its_address_and_its_variable() -> None:
    with (
        Client(Addresses("127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:1"), Credentials(), progress=False) as client,
        pytest.raises(errors.Unreachable, match=r"127.0.0.1:1 \(SIGHTLINE_DATASET_ADDRESS\)") as caught,
    ):
        client.datasets.list()
    assert caught.value.retryable
    assert "sightline up" in caught.value.fix


@pytest.mark.usefixtures("quick_retries")
def test_an_address_where_something_else_listens_is_reported_in_the_same_way() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        where = f"127.0.0.1:{web.server_port}"
        with (
            Client(Addresses(where, where, where), Credentials(), progress=False) as client,
            pytest.raises(errors.Unreachable, match=rf"{where} \(SIGHTLINE_DATASET_ADDRESS\)") as caught,
        ):
            client.datasets.list()
        web.shutdown()
    assert "set the variable to the service's address" in caught.value.fix


def test_a_call_that_timed_out_is_reported_in_the_same_way(client: Client, fakes: Fakes) -> None:
    fakes.errors["GetDataset"] = [Status(code=grpc.StatusCode.DEADLINE_EXCEEDED.value[0], message="Deadline Exceeded")]
    with pytest.raises(errors.DeadlineExceeded):
        client.datasets.get("d")


def test_invalid_credentials_and_addresses_raise_errors_of_the_same_base() -> None:
    with pytest.raises(errors.SightlineError, match="has no port"):
        Addresses("here")
    with (
        Client(Addresses("far.example:1"), Credentials(token="t"), progress=False) as client,
        pytest.raises(errors.CredentialsError, match="in plain text"),
    ):
        client.datasets.list()


def test_progress_is_reported_to_a_given_callback_and_not_at_all_without_a_terminal(
    addresses: Addresses, coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports: list[tuple[str, float]] = []

    @contextmanager
    def own(title: str):
        class Bar:
            def update(self, fraction: float, doing: str, detail: str = "") -> None:
                reports.append((title, fraction))

        yield Bar()

    with Client(addresses, Credentials(), progress=own) as client:
        client.datasets.register("birds", coco=coco)
    assert list(dict(reports)) == ["read birds", "upload birds", "check birds"]
    assert ("upload birds", 1.0) in reports
    with Client(addresses, Credentials()) as client:
        client.datasets.register("more-birds", coco=coco)
    assert capsys.readouterr() == ("", "")


def test_one_client_serves_several_threads(client: Client, photo: Path) -> None:
    seen: list[str] = []
    threads = [threading.Thread(target=lambda: seen.append(client.predict("m", photo)[0].name)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["cat"] * 8


def test_the_stubs_are_accessible(client: Client, photo: Path) -> None:
    answer = client.stubs.predictions.AnalyzeImage(AnalyzeImageRequest(model_name="models/m", image=photo.read_bytes()))
    assert client.predict("m", photo).message == answer


async def test_projects_have_what_is_used_and_what_is_left(client: Client, aio: AsyncClient, fakes: Fakes) -> None:
    limited = ComputeQuota(used=Duration(seconds=60), reserved=Duration(seconds=30), limit=Duration(seconds=100))
    for name, compute in (("default", limited), ("acme", ComputeQuota()), ("other", ComputeQuota())):
        fakes.projects[name] = Project(project_id=name, compute=compute, models=CountQuota(used=3))
    found = client.projects.get()
    assert (found.project_id, found.models.used, found.models.limit) == ("default", 3, None)
    assert (found.compute.left, found.compute.limit) == (timedelta(seconds=10), timedelta(seconds=100))
    assert await aio.projects.get() == found
    everything = client.projects.list()
    assert [(one.project_id, one.compute.left is None) for one in everything[1:]] == [("acme", True), ("other", True)]
    assert await aio.projects.list() == everything


async def test_single_images_are_read_in_the_order_asked_for_by_both_clients_alike(
    client: Client, aio: AsyncClient, fakes: Fakes
) -> None:
    fakes.images = {f"{number}.png": f"image {number}".encode() for number in range(1, 5)}
    found = client.datasets.images("set", (3, 9, 1), version=2)
    assert [(one.image_id, one.file, one.category, one.image) for one in found] == [
        (3, "3.png", "cat", b"image 3"),
        (1, "1.png", "cat", b"image 1"),
    ]
    assert await aio.datasets.images("set", (3, 9, 1), version=2) == found
    asked = [request for request in fakes.requests if isinstance(request, ReadImagesRequest)]
    assert {(request.parent, request.version) for request in asked} == {("datasets/set", 2)}


def test_an_image_whose_stream_breaks_is_read_again_from_its_beginning(client: Client, fakes: Fakes) -> None:
    fakes.images = {"1.png": b"a whole image"}
    fakes.errors["ReadImages"] = [status(grpc.StatusCode.UNAVAILABLE, "unavailable", "Gone for a moment.")]
    (image,) = client.datasets.images("set", (1,))
    assert image.image == b"a whole image"


async def test_a_dataset_is_drafted_by_both_clients_alike(
    client: Client, aio: AsyncClient, fakes: Fakes, tmp_path: Path
) -> None:
    message = SuggestImagesResponse(image_id="a", image=b"a photo", extension="jpg")
    message.prediction.metadata.width, message.prediction.metadata.height = 64, 48
    message.prediction.custom_model_result.tags_result.values.add(name="cat", confidence=0.5)
    fakes.suggested += [message, message]  # as when the stream was opened again
    one = client.datasets.suggest("m", tmp_path / "one", count=5)
    other = await aio.datasets.suggest("m", tmp_path / "other", count=5)
    assert (one.image_count, other.image_count, one.detection) == (1, 1, False)
    assert one.annotations.read_bytes() == other.annotations.read_bytes()


def test_feedback_is_refused_with_the_request(client: Client, fakes: Fakes, photo: Path) -> None:
    client.predict("m", photo)
    client.predict("m", photo, feedback=False)
    assert [one.no_feedback for one in fakes.requests if isinstance(one, AnalyzeImageRequest)] == [False, True]


async def test_models_are_loaded_listed_and_unloaded(client: Client, aio: AsyncClient, fakes: Fakes) -> None:
    loaded = client.models.load("m")
    assert (loaded.name, loaded.version, loaded.size_bytes, loaded.pinned) == ("models/m", "v1", 6_000_000, True)
    assert loaded.load_time == datetime(2026, 1, 1, tzinfo=UTC)
    assert loaded.last_used_time is None
    assert client.models.loaded() == await aio.models.loaded() == (await aio.models.load("m"),)
    client.models.unload("m")
    assert client.models.loaded() == ()
    await aio.models.load("m")
    await aio.models.unload("models/m")
    assert not fakes.loaded


async def test_the_whole_story_in_asyncio(aio: AsyncClient, fakes: Fakes, coco: Path, photo: Path) -> None:
    birds = await aio.datasets.register("birds", coco=coco)
    assert (birds.state, set(fakes.files)) == ("READY", {"coco.json", "a.png"})
    model = await aio.models.train("m", dataset=birds, budget="10m")
    trained(fakes)
    assert (await model.wait()).performance.accuracy_top1 == 0.9
    assert [one.state async for one in aio.models.watch("m")] == ["SUCCEEDED"]
    assert [one.name for one in await aio.models.list()] == ["models/m"]
    fakes.evaluations[E] = Evaluation(name=E, state=Evaluation.SUCCEEDED)
    evaluation = await aio.evaluations.create(model, "e", dataset=birds)
    assert await aio.evaluations.list("m") == (evaluation,)
    assert (await aio.predict("m", photo))[0] == Tag("cat", 0.75)
    assert [len(one) async for one in aio.predict_many("m", [photo] * 20)] == [2] * 20
    await aio.evaluations.delete(evaluation)
    assert (await aio.models.cancel("m")).state == "CANCELLING"
    await aio.models.delete("m")
    await aio.datasets.delete(birds)
    assert await aio.datasets.list() == ()
    assert await aio.datasets.findings("birds") == ()
    assert await aio.models.trials("m") == ()


async def test_errors_are_the_same_in_asyncio(aio: AsyncClient, fakes: Fakes, photo: Path) -> None:
    with pytest.raises(errors.DatasetNotFound):
        await aio.datasets.get("nope")
    failed = trained(fakes)
    failed.state = Model.FAILED
    failed.error.CopyFrom(status(grpc.StatusCode.FAILED_PRECONDITION, "diverged", "The loss became nan."))
    with pytest.raises(errors.Diverged, match="models/m failed"):
        await aio.models.wait("m")
    fakes.errors["AnalyzeImage"] = [status(grpc.StatusCode.INVALID_ARGUMENT, "InvalidImageFormat", "image: is cut off")]
    assert [type(one.error) async for one in aio.predict_many("m", [photo])] == [errors.InvalidImageFormat]
    fakes.errors["AnalyzeImage"] = [status(grpc.StatusCode.NOT_FOUND, "ModelNotFound", "models/m is missing.")] * 100
    with pytest.raises(errors.ModelNotFound):
        _ = [one async for one in aio.predict_many("m", [photo] * 100)]
    assert len(fakes.requests) < 50


@pytest.mark.usefixtures("quick_retries")
async def test_an_upload_that_the_service_drops_is_retried_in_asyncio(
    aio: AsyncClient, fakes: Fakes, coco: Path
) -> None:
    away = status(grpc.StatusCode.UNAVAILABLE, "Draining", "The dataset service is shutting down.")
    fakes.errors["UploadFiles"] = [away] * 2
    fakes.errors["WatchDataset"] = [status(grpc.StatusCode.UNAVAILABLE, "StreamExpired", "Open it again.")]
    assert (await aio.datasets.register("birds", coco=coco)).state == "READY"
    assert set(fakes.files) == {"coco.json", "a.png"}


@pytest.mark.parametrize(
    ("blocking", "asyncio"),
    [
        (Client, AsyncClient),
        (Datasets, AsyncDatasets),
        (Models, AsyncModels),
        (Evaluations, AsyncEvaluations),
        (Projects, AsyncProjects),
    ],
)
def test_both_clients_have_the_same_methods_with_the_same_arguments(blocking: type, asyncio: type) -> None:
    def methods(kind: type) -> dict[str, list[tuple[str, object]]]:
        found = {name: one for name, one in vars(kind).items() if inspect.isfunction(one) and not name.startswith("_")}
        return {
            name: [(parameter.name, parameter.default) for parameter in inspect.signature(one).parameters.values()]
            for name, one in found.items()
        }

    assert methods(blocking) == methods(asyncio)
    assert len(methods(blocking)) >= 2


def test_every_exported_name_exists() -> None:
    for name in sightline.__all__:
        assert getattr(sightline, name) is not None, name
    assert set(sightline.__all__) <= set(dir(sightline))
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = sightline.Nonsense
