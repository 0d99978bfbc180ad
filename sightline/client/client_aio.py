"""`AsyncClient`: the asyncio version of `Client`."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from types import TracebackType
from typing import Self

from sightline.client import predictions, requests
from sightline.client.aliases import AsyncAliases
from sightline.client.audit import AsyncAudit
from sightline.client.batches import AsyncBatchPredictions
from sightline.client.calls import AsyncCalls
from sightline.client.client import reporter, within
from sightline.client.datasets import AsyncDatasets
from sightline.client.evaluations import AsyncEvaluations
from sightline.client.models import AsyncModels
from sightline.client.names import Named
from sightline.client.progress import Reporter
from sightline.client.projects import AsyncProjects
from sightline.client.requests import Image
from sightline.client.results.explanation import Explanation
from sightline.client.results.prediction import Prediction
from sightline.client.stubs_aio import AsyncStubs
from sightline.client.transport.addresses import Addresses
from sightline.client.transport.credentials import Credentials
from sightline.client.upload_lists import AsyncUploads


class AsyncClient:
    """Connections to the three services: `async with AsyncClient() as client: ...`, within one event loop.

    It has the methods of `Client`: await them, and iterate over `watch` and `predict_many` with `async for`.
    """

    def __init__(
        self,
        addresses: Addresses | None = None,
        credentials: Credentials | None = None,
        *,
        project: str = "",
        progress: bool | Reporter = True,
    ) -> None:
        """As for `Client`."""
        self.stubs = AsyncStubs(addresses, within(project, credentials))
        self._calls = AsyncCalls(self.stubs, reporter(progress))
        self.datasets = AsyncDatasets(self._calls)
        self.uploads = AsyncUploads(self._calls)
        self.audit = AsyncAudit(self._calls)
        self.models = AsyncModels(self._calls)
        self.aliases = AsyncAliases(self._calls)
        self.evaluations = AsyncEvaluations(self._calls)
        self.batch_predictions = AsyncBatchPredictions(self._calls)
        self.projects = AsyncProjects(self._calls)

    async def predict(
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
        """As `Client.predict`; the file is read in a thread."""
        request = requests.analyze_image(model, threshold, suggested_thresholds, top, coverage, feedback)
        return await predictions.predict_async(self._calls, request, image)

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
    ) -> AsyncGenerator[Prediction]:
        """As `Client.predict_many`, for `async for`."""
        request = requests.analyze_image(model, threshold, suggested_thresholds, top, coverage, feedback)
        return predictions.predict_many_async(self._calls, request, images)

    async def explain(self, model: str | Named, image: Image, tag: str = "") -> Explanation:
        """As `Client.explain`; the file is read in a thread."""
        request = await asyncio.to_thread(requests.explain_image, model, image, tag)
        return await predictions.explain_async(self._calls, request, requests.image_name(image))

    async def close(self) -> None:
        """Closes the connections."""
        await self.stubs.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()
