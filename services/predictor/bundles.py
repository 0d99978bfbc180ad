"""Bundles out of the store: fetched into a folder of their own, checked, loaded and warmed."""

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from io import BytesIO
from pathlib import Path

from PIL import Image

from services.kit import blobs as uris
from services.kit.blobs import Blobs
from services.kit.errors import BlobNotFound, BundleUnusable, Unavailable
from services.predictor.cache import Loaded
from services.predictor.domain import Bundle, Loader
from services.vision.card import BUNDLE_FILES, WEIGHTS_FILE

Forward = Callable[[Callable[[], object]], Awaitable[object]]


class BundleSource:
    """The cache's source of models; `directory` is this process's own and emptied at the start.

    Every load has a folder of its own that nobody else knows: nothing half fetched is ever loaded, and a bundle that
    is loaded again while its last users finish does not share their files.
    """

    def __init__(self, blobs: Blobs, directory: Path, loader: Loader, workers: Executor, forward: Forward) -> None:
        self._blobs = blobs
        self._directory = directory
        self._loader = loader
        self._workers = workers  # for reading and checking files
        self._forward = forward  # runs a network in the one thread that may
        _remove(directory)
        directory.mkdir(parents=True)

    async def size_bytes(self, bundle: Bundle) -> int:
        """The size of its weights: what they take on disk they take in memory."""
        try:
            return (await self._blobs.stat(self._prefix(bundle) + WEIGHTS_FILE)).size_bytes
        except BlobNotFound as fault:
            raise _missing(bundle) from fault

    async def load(self, bundle: Bundle) -> Loaded:
        """BundleUnusable for files that are damaged, Unavailable where the store does not have or give them."""
        directory = await self._fetch(bundle)
        try:
            loop = asyncio.get_running_loop()
            recogniser = await loop.run_in_executor(self._workers, self._loader, directory)
            grey = await loop.run_in_executor(
                self._workers, lambda: recogniser.arrange(recogniser.decode(_grey_picture()))
            )
            await self._forward(lambda: list(recogniser.predict_prepared([grey])))
        except BaseException as fault:
            _remove(directory)
            if isinstance(fault, ValueError):
                raise BundleUnusable(name=bundle.model_name, version=bundle.version, problem=fault) from fault
            raise
        return Loaded(recogniser, directory)

    def discard(self, loaded: Loaded) -> None:
        """Removes the files; pages of them that are mapped stay readable to whoever maps them."""
        _remove(loaded.directory)

    async def _fetch(self, bundle: Bundle) -> Path:
        prefix = self._prefix(bundle)
        directory = Path(tempfile.mkdtemp(dir=self._directory))
        try:
            for name in BUNDLE_FILES:
                await self._blobs.get_file(prefix + name, directory / name)
        except BaseException as fault:
            _remove(directory)
            if isinstance(fault, BlobNotFound):
                raise _missing(bundle) from fault
            raise
        return directory

    def _prefix(self, bundle: Bundle) -> str:
        return uris.from_uri(bundle.uri.rstrip("/"), self._blobs.bucket) + "/"


def _missing(bundle: Bundle) -> Unavailable:
    """Retryable: most likely the model was deleted or has a better bundle since it was looked up."""
    return Unavailable(what=f"Bundle {bundle.version} of {bundle.model_name}", problem=f"{bundle.uri} is not there now")


def _grey_picture() -> bytes:
    """What a model sees first."""
    file = BytesIO()
    Image.new("RGB", (256, 256), "grey").save(file, "PNG")
    return file.getvalue()


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
