"""`client.uploads`: what has been uploaded, and its removal. Registering a dataset makes uploads by itself."""

from sightline.client.calls import AsyncCalls, Calls
from sightline.client.names import Named, full_name
from sightline.client.results.upload import Upload
from sightline.v1 import dataset_service_pb2 as service

COLLECTION = "uploads"


class Uploads:
    """The uploads of a `Client`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def list(self) -> tuple[Upload, ...]:
        """All uploads, by name."""
        response = self._calls.pages(self._calls.stubs.datasets.ListUploads, service.ListUploadsRequest())
        return tuple(map(Upload.of, response.uploads))

    def delete(self, name: str | Named) -> None:
        """Removes an upload and its files, but no dataset; UploadNotFound, UploadAlreadyExists if it is another's."""
        request = service.DeleteUploadRequest(name=full_name(COLLECTION, name))
        self._calls.ask(self._calls.stubs.datasets.DeleteUpload, request)


class AsyncUploads:
    """The uploads of an `AsyncClient`, with the methods of `Uploads`."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def list(self) -> tuple[Upload, ...]:
        """All uploads, by name."""
        response = await self._calls.pages(self._calls.stubs.datasets.ListUploads, service.ListUploadsRequest())
        return tuple(map(Upload.of, response.uploads))

    async def delete(self, name: str | Named) -> None:
        """Removes an upload and its files, but no dataset; UploadNotFound, UploadAlreadyExists if it is another's."""
        request = service.DeleteUploadRequest(name=full_name(COLLECTION, name))
        await self._calls.ask(self._calls.stubs.datasets.DeleteUpload, request)
