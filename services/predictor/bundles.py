"""Loads bundles: fetches each one into its own folder, checks it, loads the model and warms it up."""

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from io import BytesIO
from pathlib import Path

from PIL import Image

from services.kit import blobs as uris
from services.kit import heap
from services.kit.blobs import Blobs
from services.kit.errors import BlobNotFound, BundleUnusable, SightlineError, Unavailable
from services.kit.log import Log
from services.predictor.domain import Bundle, Loader
from services.predictor.loaded import Loaded
from services.vision.card import DIGESTS_FILE, WEIGHTS_FILE
from services.vision.sealing import names_of
from services.vision.signing import Verifier

_log = Log(__name__)

Forward = Callable[[Callable[[], object]], Awaitable[object]]


class BundleSource:
    """The cache's source of models; `directory` belongs to this process and is emptied at the start.

    Each load has its own folder: nothing partially fetched is ever loaded, and a bundle that is loaded again while its
    last users finish does not share their files.
    """

    def __init__(
        self,
        blobs: Blobs,
        directory: Path,
        loader: Loader,
        workers: Executor,
        forward: Forward,
        verifier: Verifier,
    ) -> None:
        self._blobs = blobs
        self._directory = directory
        self._loader = loader
        self._workers = workers  # reads and checks files
        self._forward = forward  # runs a network in the only thread that may
        self._verifier = verifier  # of signatures
        _remove(directory)
        directory.mkdir(parents=True)

    async def size_bytes(self, bundle: Bundle) -> int:
        """The size of its weights, on disk as in memory."""
        try:
            return (await self._blobs.stat(self._prefix(bundle) + WEIGHTS_FILE)).size_bytes
        except BlobNotFound as error:
            raise _missing(bundle) from error

    async def load(self, bundle: Bundle) -> Loaded:
        """BundleUnusable if files are damaged or cannot be run, Unavailable if the store is down or lacks them."""
        self._verifier.check(bundle.model_name, bundle.version, bundle.digest, bundle.signature)
        if not bundle.digest:
            _log.warning("bundle_without_digest", name=bundle.model_name, version=bundle.version)
        directory = Path(tempfile.mkdtemp(dir=self._directory))
        try:
            await self._fetch(bundle, directory)
            loop = asyncio.get_running_loop()
            loading = partial(self._loader, directory, digest=bundle.digest)
            runner = await loop.run_in_executor(self._workers, loading)
            grey = await loop.run_in_executor(self._workers, lambda: runner.arrange(runner.decode(_grey_image())))
            await self._forward(lambda: list(runner.predict_prepared([grey])))
        except BaseException as error:
            _remove(directory)
            # The engines' own errors, also those of the first pass, have no common base.
            if isinstance(error, SightlineError | OSError | MemoryError) or not isinstance(error, Exception):
                raise
            raise BundleUnusable(name=bundle.model_name, version=bundle.version, problem=error) from error
        self._workers.submit(heap.trim)  # reading and optimising a graph takes several times its size
        return Loaded(runner, directory)

    def discard(self, loaded: Loaded) -> None:
        """Removes the files; pages that are still mapped stay readable."""
        _remove(loaded.directory)

    async def _fetch(self, bundle: Bundle, directory: Path) -> None:
        """Unavailable if a file is missing, ValueError if the list of files is malformed."""
        prefix = self._prefix(bundle)
        try:
            await self._blobs.get_file(prefix + DIGESTS_FILE, directory / DIGESTS_FILE)
            for name in names_of((directory / DIGESTS_FILE).read_bytes()):
                await self._blobs.get_file(prefix + name, directory / name)
        except BlobNotFound as error:
            raise _missing(bundle) from error

    def _prefix(self, bundle: Bundle) -> str:
        return uris.from_uri(bundle.uri.rstrip("/"), self._blobs.bucket) + "/"


def _missing(bundle: Bundle) -> Unavailable:
    """Retryable: most likely the model was deleted or got a better bundle after it was looked up."""
    return Unavailable(
        what=f"Bundle {bundle.version} of {bundle.model_name}", problem=f"{bundle.uri} is no longer there"
    )


def _grey_image() -> bytes:
    """The image for the warm-up."""
    file = BytesIO()
    Image.new("RGB", (256, 256), "grey").save(file, "PNG")
    return file.getvalue()


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
