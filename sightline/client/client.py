"""`Client`: datasets, models, evaluations and predictions, from a Python program."""

from collections.abc import Generator, Iterable
from dataclasses import replace
from types import TracebackType
from typing import Self

from sightline.client import predictions, progress, requests
from sightline.client.aliases import Aliases
from sightline.client.audit import Audit
from sightline.client.batches import BatchPredictions
from sightline.client.calls import Calls
from sightline.client.datasets import Datasets
from sightline.client.evaluations import Evaluations
from sightline.client.models import Models
from sightline.client.names import Named
from sightline.client.projects import Projects
from sightline.client.requests import Image
from sightline.client.results.explanation import Explanation
from sightline.client.results.prediction import Prediction
from sightline.client.stubs import Stubs
from sightline.client.transport.addresses import Addresses
from sightline.client.transport.credentials import Credentials
from sightline.client.upload_lists import Uploads


class Client:
    """Connections to the three services: `with Client() as client: ...`. Threads may share it.

    Addresses and credentials come from the environment (`SIGHTLINE_*`) unless given. Each service is connected on
    first use. Failures are raised as SightlineError.
    """

    def __init__(
        self,
        addresses: Addresses | None = None,
        credentials: Credentials | None = None,
        *,
        project: str = "",
        progress: "bool | progress.Reporter" = True,
    ) -> None:
        """`project`: where its calls act, if not in the token's only project or in `default`.

        `progress`: whether to show progress on standard error if that is a terminal, or your own reporter.
        """
        self.stubs = Stubs(addresses, within(project, credentials))
        self._calls = Calls(self.stubs, reporter(progress))
        self.datasets = Datasets(self._calls)
        self.uploads = Uploads(self._calls)
        self.audit = Audit(self._calls)
        self.models = Models(self._calls)
        self.aliases = Aliases(self._calls)
        self.evaluations = Evaluations(self._calls)
        self.batch_predictions = BatchPredictions(self._calls)
        self.projects = Projects(self._calls)

    def predict(
        self,
        model: str | Named,
        image: Image,
        *,
        threshold: float | None = None,
        suggested_thresholds: bool = False,
        top: int | None = None,
        coverage: float | None = None,
        feedback: bool = True,
    ) -> Prediction:
        """Analyzes one image: a file, its bytes, or an `s3://` uri in the store.

        A classifier returns every tag, a detector the objects that reach its suggested threshold for their category;
        `threshold` or `suggested_thresholds` overrides that. Returns at most `top` results, by default 100. With
        `coverage`, a classifier's prediction has a `prediction_set`, which contains the true category with that
        probability. Without `feedback`, the image is not kept, even if the operator lets the predictor keep images of
        uncertain predictions.
        Raises ModelNotFound, ModelNotReady, CoverageUnavailable, ImageUnreadable, InvalidImageFormat or
        InvalidImageSize.
        """
        request = requests.analyze_image(model, threshold, suggested_thresholds, top, coverage, feedback)
        return predictions.predict(self._calls, request, image)

    def predict_many(
        self,
        model: str | Named,
        images: Iterable[Image],
        *,
        threshold: float | None = None,
        suggested_thresholds: bool = False,
        top: int | None = None,
        coverage: float | None = None,
        feedback: bool = True,
    ) -> Generator[Prediction]:
        """Yields a prediction for each image, in the order of the images, with several calls in flight.

        The prediction for an image that cannot be used has an `error`; an error that concerns every image, such as
        ModelNotFound, is raised.
        """
        request = requests.analyze_image(model, threshold, suggested_thresholds, top, coverage, feedback)
        return predictions.predict_many(self._calls, request, images)

    def explain(self, model: str | Named, image: Image, tag: str = "") -> Explanation:
        """Shows which parts of the image support a tag, by default for the most confident one.

        Takes some fifty predictions. Raises as `predict` does, InvalidRequest for a tag that the model does not have,
        and QuotaExceeded if the service explains as many images as it may.
        """
        request = requests.explain_image(model, image, tag)
        return predictions.explain(self._calls, request, requests.image_name(image))

    def close(self) -> None:
        """Closes the connections."""
        self.stubs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def within(project: str, credentials: Credentials | None) -> Credentials:
    """The credentials, by default the environment's, for calls in the project; no project leaves theirs."""
    found = credentials or Credentials.from_environment()
    return replace(found, project=project) if project else found


def reporter(wanted: "bool | progress.Reporter") -> progress.Reporter:
    """The reporter: a bar if there is a terminal, nothing, or the caller's own."""
    if isinstance(wanted, bool):
        return progress.on_terminal if wanted else progress.silent
    return wanted
