"""Blobs in a bucket of any S3 server: SigV4, multipart, ranges and list-v2; nothing vendor-specific."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import ParamSpec, TypeVar
from xml.etree.ElementTree import ParseError

from minio import Minio
from minio.credentials.credentials import Credentials
from minio.credentials.providers import StaticProvider
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from services.infra import s3_digests
from services.infra.files import write_whole
from services.infra.s3_connections import PATIENT_SECONDS, PAUSES, Wait, brief, connections, current, patient, waiting
from services.infra.s3_keys import ChangingKeys
from services.infra.threads import BATCH, Threads
from services.kit.blobs import BlobInfo, check_key, check_range
from services.kit.errors import BlobDamaged, BlobNotFound, StoreRefused, Unavailable
from services.kit.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")
THREADS = 16
MIN_PART_BYTES = 5 * 1024**2  # S3's own limit
MAX_SINGLE_PUT_BYTES = 5 * 1024**3
READ_ATTEMPTS = 5
_MISSING = {"NoSuchKey", "NoSuchObject"}
_BUSY = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "TooManyRequests", "NoSuchBucket"}
_GARBLED = {"BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"}  # what arrived is not what was sent
KEYS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
OWNED = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}


def s3_client(settings: Settings, keys: ChangingKeys | None = None, retries: int = len(PAUSES)) -> Minio:
    """The settings' server, over `connections`. `keys`, if given, are used instead of the two fixed keys."""
    http_client = connections(settings, retries)
    return Minio(
        settings.s3_endpoint,
        credentials=keys or fixed_keys(settings),
        secure=settings.s3_secure,
        region=settings.s3_region,
        http_client=http_client,
    )


def fixed_keys(settings: Settings) -> StaticProvider:
    """The two keys of the settings."""
    return StaticProvider(*(key.get_secret_value() for key in (settings.s3_access_key, settings.s3_secret_key)))


class S3Blobs:
    """Blobs in one bucket; the client is shared by a bounded number of threads.

    A blob is stored with its digest, and whoever reads the whole of it gets those bytes or BlobDamaged. Parts of blobs
    are not checked, nor is what other tools have stored.

    With `keys` (the client's), a call is repeated with the new keys if they are replaced while it runs. If there are no
    new ones yet, it fails with Unavailable, not StoreRefused, so that work outlives a mistake with the keys.

    A call is Unavailable after `answer_seconds` of silence of the store, all attempts and the wait for a thread
    included. For each further piece of a file the store has PATIENT_SECONDS, and so it has for each part that is put:
    it may flush megabytes before it answers. The thread of a cancelled call ends as soon as the store says something.
    """

    def __init__(
        self,
        client: Minio,
        bucket: str = "sightline",
        threads: Threads | None = None,
        keys: ChangingKeys | None = None,
        answer_seconds: float = PATIENT_SECONDS,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._threads = threads or Threads(THREADS, "s3")
        self._keys = keys
        self._answer_seconds = answer_seconds

    @property
    def bucket(self) -> str:
        return self._bucket

    async def ensure_bucket(self) -> None:
        """Creates the bucket if it is missing; several services may do so at once."""
        await self._run(patient(), self._make_bucket)

    async def put(self, key: str, data: bytes) -> None:
        check_key(key)
        await self._run(self._answer(), self._put, key, data)

    async def put_file(self, key: str, path: Path) -> None:
        check_key(key)
        await self._run(patient(), self._put_file, key, path)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        check_key(key)
        check_range(start, length)
        return await self._run(self._answer(), self._get, key, start, length)

    async def get_file(self, key: str, path: Path) -> None:
        check_key(key)
        await self._run(self._file(), self._get_file, key, path)

    async def stat(self, key: str) -> BlobInfo:
        check_key(key)
        return await self._run(self._answer(), self._stat, key)

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        found = self._list(prefix)
        while batch := await self._run(self._answer(), lambda: list(islice(found, BATCH))):
            for blob in batch:
                yield blob

    async def delete(self, key: str) -> None:
        check_key(key)
        await self._run(self._answer(), self._remove, key)

    async def ping(self) -> None:
        if not await self._run(self._answer(), self._exists):
            raise Unavailable(what=f"the bucket {self._bucket}", problem="it does not exist")

    def _answer(self) -> Wait:
        return Wait(self._answer_seconds, self._answer_seconds)

    def _file(self) -> Wait:
        return Wait(self._answer_seconds, PATIENT_SECONDS)

    async def _run(self, wait: Wait, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns or raises, called in a thread."""

        def call() -> T:
            with waiting(wait):
                return self._signed(lambda: function(*args, **kwargs))

        try:
            return await self._threads.run(call)
        except asyncio.CancelledError:
            wait.end()
            raise

    def _signed(self, call: Callable[[], T]) -> T:
        """What the call returns; repeated while it is refused for keys that have been replaced since."""
        while True:
            used = self._keys.retrieve() if self._keys else None
            try:
                return call()
            except _KeysRefused as refused:
                self._await_others(used, refused)

    def _await_others(self, used: Credentials | None, refused: "_KeysRefused") -> None:
        if not (self._keys and used and self._keys.replaced(used)):
            where = self._keys.settings if self._keys else ""
            problem = f"it refuses the keys ({refused}); see {where}"
            raise Unavailable(what=f"the store's bucket {self._bucket}", problem=problem) from refused
        current().progress()

    def _exists(self) -> bool:
        with self._failing(""):
            return self._client.bucket_exists(self._bucket)

    def _make_bucket(self) -> None:
        if self._exists():
            return
        with self._failing(""):
            try:
                self._client.make_bucket(self._bucket)
            except S3Error as error:
                if error.code not in OWNED or not self._client.bucket_exists(self._bucket):
                    raise

    def _put(self, key: str, data: bytes) -> None:
        part = min(max(len(data), MIN_PART_BYTES), MAX_SINGLE_PUT_BYTES)  # one request: no multipart below 5 GiB
        digest = s3_digests.of_bytes(data)
        with self._failing(key):
            self._client.put_object(self._bucket, key, io.BytesIO(data), len(data), metadata=digest, part_size=part)

    def _put_file(self, key: str, path: Path) -> None:
        size, digest = path.stat().st_size, s3_digests.of_file(path)
        with path.open("rb") as source, self._failing(key):
            self._client.put_object(self._bucket, key, source, size, metadata=digest)

    def _get(self, key: str, start: int, length: int | None) -> bytes:
        if length == 0:  # HTTP has no empty range
            self._stat(key)
            return b""
        try:
            return self._read(key, start, length, lambda response: s3_digests.read(key, response))
        except _BeyondTheEnd:
            return b""

    def _get_file(self, key: str, path: Path) -> None:
        def fill(response: BaseHTTPResponse) -> None:
            write_whole(path, lambda target: s3_digests.copy(key, response, target))

        self._read(key, 0, None, fill)

    def _read(self, key: str, start: int, length: int | None, consume: Callable[[BaseHTTPResponse], T]) -> T:
        """What `consume` returns for the blob's body; starts over if the connection breaks or the bytes are damaged."""
        attempts = READ_ATTEMPTS
        while True:
            try:
                with self._reading(key, start, length) as response:
                    return consume(response)
            except (Unavailable, BlobDamaged):
                attempts -= 1
                if not attempts or current().left <= 0:
                    raise

    @contextmanager
    def _reading(self, key: str, start: int, length: int | None) -> Generator[BaseHTTPResponse]:
        """The blob's body; a connection that breaks before its end raises Unavailable, never a short read."""
        with self._failing(key):
            response = self._client.get_object(self._bucket, key, offset=start, length=length or 0)
            try:
                if not {"Content-Length", "Transfer-Encoding"} & response.headers.keys():
                    raise _CutShort  # within its head: its body would pass for an empty one
                yield response
            finally:
                response.close()
                response.release_conn()

    def _stat(self, key: str) -> BlobInfo:
        with self._failing(key):
            found = self._client.stat_object(self._bucket, key)
            if "Content-Length" not in (found.metadata or ()):
                raise _CutShort
            return BlobInfo(key, found.size or 0)

    def _list(self, prefix: str) -> Iterator[BlobInfo]:
        last: str | None = None
        while True:
            used = self._keys.retrieve() if self._keys else None
            try:
                with self._failing(prefix):
                    for found in self._client.list_objects(self._bucket, prefix, recursive=True, start_after=last):
                        last = found.object_name
                        if last and not last.endswith("/"):  # a console's marker of a folder
                            yield BlobInfo(last, found.size or 0)
            except _KeysRefused as refused:
                self._await_others(used, refused)
            else:
                return

    def _remove(self, key: str) -> None:
        with self._failing(key):
            self._client.remove_object(self._bucket, key)

    @contextmanager
    def _failing(self, key: str) -> Generator[None]:
        """The client's errors as ours."""
        store = f"the store's bucket {self._bucket}"
        try:
            yield
        except S3Error as error:
            if error.code in _MISSING and key:
                raise BlobNotFound(name=key) from None
            if error.code == "InvalidRange":
                raise _BeyondTheEnd from None
            if self._keys and _is_of_keys(error):
                raise _KeysRefused(": ".join(filter(None, (error.code, error.message)))) from None
            if error.code in _BUSY | _GARBLED or error.response.status >= 500:
                raise Unavailable(what=store, problem=f"{error.code}: {error.message}") from error
            raise StoreRefused(what=f"{self._bucket}/{key}", code=f"{error.code}: {error.message}") from error
        except (ServerError, InvalidResponseError, HTTPError, ParseError, _CutShort) as error:
            raise Unavailable(what=store, problem=brief(error)) from error
        except MinioException as error:
            raise StoreRefused(what=f"{self._bucket}/{key}", code=brief(error)) from error


class _CutShort(Exception):
    """An answer that ends before it says how long it is."""


class _BeyondTheEnd(Exception):
    """A range that starts beyond the end of the blob."""


class _KeysRefused(Exception):
    """The server does not accept the keys."""


def _is_of_keys(error: S3Error) -> bool:
    """Whether other keys may help; the response to a HEAD has no body that says why it is refused."""
    return error.code in KEYS or (error.response.status == 403 and not error.response.data)
