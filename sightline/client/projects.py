"""`client.projects`: what projects have in use, and their quotas."""

from sightline.client.calls import AsyncCalls, Calls
from sightline.client.results.project import Project
from sightline.v1 import project_service_pb2 as service


class Projects:
    """The projects of a `Client`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def get(self) -> Project:
        """The project that the client's calls act in."""
        return Project.of(self._calls.ask(self._calls.stubs.projects.GetProject, service.GetProjectRequest()))

    def list(self) -> tuple[Project, ...]:
        """The projects that the token is valid for; if it is for all, those that own anything, and `default`."""
        response = self._calls.pages(self._calls.stubs.projects.ListProjects, service.ListProjectsRequest())
        return tuple(map(Project.of, response.projects))


class AsyncProjects:
    """The projects of an `AsyncClient`, with the methods of `Projects`."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def get(self) -> Project:
        """The project that the client's calls act in."""
        return Project.of(await self._calls.ask(self._calls.stubs.projects.GetProject, service.GetProjectRequest()))

    async def list(self) -> tuple[Project, ...]:
        """The projects that the token is valid for; if it is for all, those that own anything, and `default`."""
        response = await self._calls.pages(self._calls.stubs.projects.ListProjects, service.ListProjectsRequest())
        return tuple(map(Project.of, response.projects))
