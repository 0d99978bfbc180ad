"""Datasets: the list, one of them with its findings, and how it is deleted."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
from starlette.responses import Response, StreamingResponse

from services.gateway.studio import charts
from services.gateway.studio.training import LIVE_HEADERS, RETRY_MILLISECONDS, event
from services.gateway.studio.visit import Visit
from services.kit.errors import InvalidRequest
from services.kit.roles import Role
from sightline.pages.charts import BARS
from sightline.v1.dataset_pb2 import Dataset, DatasetProgress
from sightline.v1.dataset_service_pb2 import (
    DeleteDatasetRequest,
    GetDatasetRequest,
    ListDatasetsRequest,
    ListFindingsRequest,
    WatchDatasetRequest,
)
from sightline.v1.finding_pb2 import Finding

PAGE, FINDINGS = 24, 30
SEVERITIES = {"error": Finding.ERROR, "warning": Finding.WARNING, "info": Finding.INFO}


async def list_all(visit: Visit) -> Response:
    """A page of the datasets."""
    request = ListDatasetsRequest(page_size=PAGE, page_token=visit.query("page"))
    found = await visit.session.call(visit.session.services.datasets.ListDatasets, request)
    rows = [(dataset, state_of(dataset)) for dataset in found.datasets]
    return await visit.page("datasets.html", rows=rows, next_page=found.next_page_token, first=not visit.query("page"))


async def show(visit: Visit) -> Response:
    """The page of a dataset."""
    dataset = await dataset_of(visit)
    categories = sorted(dataset.stats.categories, key=lambda one: -one.image_count)
    return await visit.page(
        "dataset.html",
        dataset=dataset,
        state=state_of(dataset),
        phase=phase_of(dataset),
        balance=charts.balance(
            ((one.name, one.image_count) for one in categories[:BARS]),
            dataset.name,
            linked=await visit.may(Role.TRAINER),
        ),
        bar_count=min(BARS, len(categories)),
        category_count=len(categories),
        **await _findings(visit, dataset.name),
    )


async def findings(visit: Visit) -> Response:
    """A page of the findings."""
    return await visit.page("findings.html", dataset=await dataset_of(visit), **await _findings(visit, name_of(visit)))


async def progress(visit: Visit) -> Response:
    """How far validation is after every change, until it ends."""
    request = WatchDatasetRequest(name=name_of(visit))
    watched = visit.session.stream(visit.session.services.datasets.WatchDataset, request)
    first = await anext(watched)
    return StreamingResponse(
        _events(visit, first.dataset, watched), media_type="text/event-stream", headers=LIVE_HEADERS
    )


async def _events(visit: Visit, dataset: Dataset, watched: AsyncGenerator[Any]) -> AsyncIterator[str]:
    template = visit.site.templates.get_template("validation.html")
    try:
        while dataset.state == Dataset.VALIDATING:
            yield event("progress", template.render(dataset=dataset, phase=phase_of(dataset)))
            dataset = (await anext(watched)).dataset
        yield event("ended", "")
    except (grpc.aio.AioRpcError, StopAsyncIteration):
        yield f"retry: {RETRY_MILLISECONDS}\n\n"
    finally:
        await watched.aclose()


async def delete(visit: Visit) -> Response:
    """Deletes a dataset, if its name was typed as a confirmation."""
    if (await visit.form()).get("confirmation", "").strip() != visit.path("dataset"):
        raise InvalidRequest(field="confirmation", problem=visit.site.text("dataset.not_confirmed"))
    request = DeleteDatasetRequest(name=name_of(visit))
    await visit.session.call(visit.session.services.datasets.DeleteDataset, request)
    return visit.to("datasets")


async def dataset_of(visit: Visit) -> Dataset:
    """The dataset that the path names."""
    request = GetDatasetRequest(name=name_of(visit), view=Dataset.FULL)
    return await visit.session.call(visit.session.services.datasets.GetDataset, request)


def name_of(visit: Visit) -> str:
    """The resource's name."""
    return f"datasets/{visit.path('dataset')}"


def state_of(dataset: Dataset) -> str:
    """The name of its state."""
    return Dataset.State.Name(dataset.state).lower()


def phase_of(dataset: Dataset) -> str:
    """The name of the step of its validation."""
    return DatasetProgress.Phase.Name(dataset.progress.phase).lower()


async def _findings(visit: Visit, name: str) -> dict[str, Any]:
    severity = visit.query("severity")
    request = ListFindingsRequest(
        parent=name,
        page_size=FINDINGS,
        page_token=visit.query("page"),
        severity=SEVERITIES.get(severity, Finding.SEVERITY_UNSPECIFIED),
    )
    found = await visit.session.call(visit.session.services.datasets.ListFindings, request)
    return {
        "severity": severity if severity in SEVERITIES else "",
        "findings": [(one, Finding.Severity.Name(one.severity).lower()) for one in found.findings],
        "next_findings": found.next_page_token,
    }
