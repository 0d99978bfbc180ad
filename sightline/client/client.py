"""`Client`: datasets, models, evaluations and predictions, from a Python program."""

from collections.abc import Generator, Iterable
from types import TracebackType
from typing import Self

from sightline.client import predictions, progress, requests
from sightline.client.addresses import Addresses
from sightline.client.calls import Calls
from sightline.client.credentials import Credentials
from sightline.client.datasets import Datasets
from sightline.client.evaluations import Evaluations
from sightline.client.models import Models
from sightline.client.names import Named
from sightline.client.requests import Image
from sightline.client.results.prediction import Prediction
from sightline.client.stubs import Stubs


class Client:
    """Connections to the three services: `with Client() as client: ...`. May be used by several threads.

    Addresses and credentials are those of the environment (`SIGHTLINE_*`) unless they are given; each service is
    connected when it is first used. Whatever fails raises a SightlineError.
    """

    def __init__(
        self,
        addresses: Addresses | None = None,
        credentials: Credentials | None = None,
        *,
        progress: "bool | progress.Reporter" = True,
    ) -> None:
        """`progress` shows long tasks on standard error where that is a terminal; or is a reporter of your own."""
        self.stubs = Stubs(addresses, credentials)
        self._calls = Calls(self.stubs, reporter(progress))
        self.datasets = Datasets(self._calls)
        self.models = Models(self._calls)
        self.evaluations = Evaluations(self._calls)

    def predict(
        self,
        model: str | Named,
        image: Image,
        *,
        threshold: float | None = None,
        suggested_thresholds: bool = False,
        top: int | None = None,
    ) -> Prediction:
        """What a model sees in an image: a file, the bytes of one, or an `s3://` uri of the store.

        A classifier answers with all tags, a detector with the objects that reach the threshold which it suggests for
        their category; or both with what reaches `threshold`, or the `suggested_thresholds`. At most `top` results, 100
        by default. Raises ModelNotFound, ModelNotReady, InvalidImageFormat or InvalidImageSize, and OSError.
        """
        question = requests.question(model, threshold, suggested_thresholds, top)
        return predictions.predict(self._calls, question, image)

    def predict_many(
        self,
        model: str | Named,
        images: Iterable[Image],
        *,
        threshold: float | None = None,
        suggested_thresholds: bool = False,
        top: int | None = None,
    ) -> Generator[Prediction]:
        """A prediction for each image, in their order; several calls are under way at once.

        One that fails for its image has an `error`; an error that is about all of them, such as ModelNotFound, is
        raised.
        """
        question = requests.question(model, threshold, suggested_thresholds, top)
        return predictions.predict_many(self._calls, question, images)

    def close(self) -> None:
        """Ends the connections."""
        self.stubs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def reporter(wanted: "bool | progress.Reporter") -> progress.Reporter:
    """What reports progress: a bar where a terminal is, nothing, or the caller's own."""
    if isinstance(wanted, bool):
        return progress.on_terminal if wanted else progress.silent
    return wanted
