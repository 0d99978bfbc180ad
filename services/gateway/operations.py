"""The operations of an API: the table from which its routes and its OpenAPI document are made."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import grpc
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.gateway.auth import metadata_of
from services.gateway.errors import Problem, Refusal, problem_of
from services.gateway.exchange import Exchange
from services.gateway.settings import GatewaySettings
from services.gateway.upstream import REQUEST_ID, Services, Session
from services.kit import log
from services.kit.errors import SightlineError

Handler = Callable[[Exchange], Awaitable[Response]]
Render = Callable[[Problem], Response]
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    path: str  # below the API's prefix; `{name}` is a part of it
    handler: Handler
    summary: str
    statuses: tuple[int, ...]
    query: tuple[str, ...] = ()
    body: tuple[str, ...] = ()  # content types


@dataclass(frozen=True, slots=True)
class Api:
    """An API: where it is, what it does, and how it reports a failure."""

    name: str
    prefix: str
    operations: Sequence[Operation]
    render: Render


class Routing:
    """Makes the routes of APIs."""

    def __init__(self, services: Services, settings: GatewaySettings) -> None:
        self._services, self._settings = services, settings

    def routes(self, api: Api) -> list[Route]:
        """One route for each path, with all its methods, so that another one is answered with their names."""
        paths: dict[str, dict[str, Endpoint]] = {}
        for operation in api.operations:
            paths.setdefault(api.prefix + operation.path, {})[operation.method] = self._endpoint(api, operation)
        return [Route(path, _by_method(endpoints), methods=list(endpoints)) for path, endpoints in paths.items()]

    def _endpoint(self, api: Api, operation: Operation) -> Endpoint:
        async def answer(request: Request) -> Response:
            request.state.route = api.prefix + operation.path
            metadata = (*metadata_of(request.headers), (REQUEST_ID, log.request_id.get()))
            exchange = Exchange(request, Session(self._services, metadata, request.state.body.hold), self._settings)
            try:
                return await operation.handler(exchange)
            except (Refusal, SightlineError, grpc.aio.AioRpcError) as error:
                problem = problem_of(error)
                request.state.reason = problem.reason
                return api.render(problem)

        return answer


def _by_method(endpoints: Mapping[str, Endpoint]) -> Endpoint:
    async def answer(request: Request) -> Response:
        return await endpoints["GET" if request.method == "HEAD" else request.method](request)

    return answer
