"""Sends the files of an export, except those that an earlier upload of the same files left there."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from sightline.client import progress
from sightline.client.calls import AsyncCalls, Calls
from sightline.client.errors import UploadAlreadyExists, WrongState
from sightline.client.names import bare_name
from sightline.client.quantities import size
from sightline.client.uploads import LocalFile, LocalSet, digested, local_set
from sightline.importers.package import Package
from sightline.plurals import counted
from sightline.v1 import dataset_service_pb2 as service


@dataclass(frozen=True, slots=True)
class Sent:
    """The files of an export that are in the store."""

    local: LocalSet
    base_uri: str  # of the upload
    uris: Mapping[str, str]  # of each file, by its path

    @property
    def annotations(self) -> list[str]:
        """The uris of the COCO files."""
        return [self.uris[path] for path in self.local.annotations]


def send(calls: Calls, name: str, package: Package, note: Callable[[str], None]) -> Sent:
    """Uploads what is not there yet. Images that the service finds too large are left out, and `note` gets their names.

    The upload's id is a digest of the files, so that repeating an interrupted call continues its upload.
    """
    return _sent(calls, name, partial(local_set, package), note)


def send_images(calls: Calls, name: str, images: LocalSet, note: Callable[[str], None]) -> str:
    """Uploads images, as `send` does; returns the uri of their folder in the store."""
    return _sent(calls, name, images.up_to, note).base_uri


def _sent(calls: Calls, name: str, up_to: Callable[[int], LocalSet], note: Callable[[str], None]) -> Sent:
    """Uploads what is not there yet of the files up to the size that the service names."""
    local = _digested(calls.reporter, name, up_to(0))
    opened = _opened(calls, local.upload_id)
    if local.has_larger(opened.max_image_bytes):
        local = _digested(calls.reporter, name, up_to(opened.max_image_bytes), local)
        opened = _opened(calls, local.upload_id)
    _note_left_out(local, note)
    rest = _Rest(name, local, calls.pages(calls.stubs.datasets.ListUploadedFiles, _listing(opened)))
    with rest.progress(calls.reporter) as sent, calls.raising():
        uris = calls.stubs.upload_files(rest.files, sent, opened.upload_id)
    return Sent(local, opened.base_uri, rest.uris | uris)


def _opened(calls: Calls, upload_id: str) -> service.UploadFilesResponse:
    """The upload of this id, or a new one if another caller began it or it is being deleted."""
    try:
        with calls.raising():
            return calls.stubs.open_upload(upload_id)
    except (UploadAlreadyExists, WrongState):
        with calls.raising():
            return calls.stubs.open_upload()


async def send_async(calls: AsyncCalls, name: str, package: Package, note: Callable[[str], None]) -> Sent:
    """The asyncio version of `send`; files are read in threads."""
    return await _sent_async(calls, name, partial(local_set, package), note)


async def send_images_async(calls: AsyncCalls, name: str, images: LocalSet, note: Callable[[str], None]) -> str:
    """The asyncio version of `send_images`; files are read in threads."""
    return (await _sent_async(calls, name, images.up_to, note)).base_uri


async def _sent_async(
    calls: AsyncCalls, name: str, up_to: Callable[[int], LocalSet], note: Callable[[str], None]
) -> Sent:
    local = await asyncio.to_thread(_digested, calls.reporter, name, up_to(0))
    opened = await _opened_async(calls, local.upload_id)
    if local.has_larger(opened.max_image_bytes):
        smaller = up_to(opened.max_image_bytes)
        local = await asyncio.to_thread(_digested, calls.reporter, name, smaller, local)
        opened = await _opened_async(calls, local.upload_id)
    _note_left_out(local, note)
    rest = _Rest(name, local, await calls.pages(calls.stubs.datasets.ListUploadedFiles, _listing(opened)))
    with rest.progress(calls.reporter) as sent:
        async with calls.raising():
            uris = await calls.stubs.upload_files(rest.files, sent, opened.upload_id)
    return Sent(local, opened.base_uri, rest.uris | uris)


async def _opened_async(calls: AsyncCalls, upload_id: str) -> service.UploadFilesResponse:
    try:
        async with calls.raising():
            return await calls.stubs.open_upload(upload_id)
    except (UploadAlreadyExists, WrongState):
        async with calls.raising():
            return await calls.stubs.open_upload()


class _Rest:
    """What an upload lacks."""

    def __init__(self, name: str, local: LocalSet, listed: service.ListUploadedFilesResponse) -> None:
        self._name, self._local = name, local
        present = {file.path: file for file in listed.files}
        self.files: list[LocalFile] = []
        self.uris: dict[str, str] = {}
        for file in local.files:
            if file.path in present and present[file.path].sha256 == file.sha256:
                self.uris[file.path] = present[file.path].uri
            else:
                self.files.append(file)

    def progress(self, reporter: progress.Reporter) -> AbstractContextManager[Callable[[int], None]]:
        """A callback for the bytes sent, which updates a bar that starts with what is there."""
        doing, total = counted(len(self._local.files), "file"), self._local.size_bytes
        if self.uris:
            doing = f"{doing}, {len(self.uris)} of them there already"
        there = total - sum(file.size_bytes for file in self.files)
        return progress.in_bytes(reporter, f"upload {bare_name(self._name)}", doing, total, there)


def _digested(reporter: progress.Reporter, name: str, local: LocalSet, known: LocalSet | None = None) -> LocalSet:
    doing = counted(len(local.files), "file")
    with progress.in_bytes(reporter, f"read {bare_name(name)}", doing, local.size_bytes) as read:
        return digested(local, read, known)


def _listing(opened: service.UploadFilesResponse) -> service.ListUploadedFilesRequest:
    return service.ListUploadedFilesRequest(parent=f"uploads/{opened.upload_id}")


def _note_left_out(local: LocalSet, note: Callable[[str], None]) -> None:
    if local.left_out:
        listed = ", ".join(f"{file.path} ({size(file.size_bytes)})" for file in local.left_out)
        note(f"left out {counted(len(local.left_out), 'image')} that the service finds too large: {listed}")
