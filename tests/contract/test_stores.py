"""Where S3 stores differ: each cell of the table in docs/operations.md is what a store did here."""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
import uuid
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import urllib3
from minio import Minio
from minio.datatypes import PostPolicy
from minio.error import S3Error

from services.infra.s3 import S3Blobs, s3_client
from services.kit.errors import Unavailable
from tests.support.s3 import S3_SERVERS, S3Server
from tests.support.seaweed import SeaweedCluster
from tests.support.servers import stop

DOCUMENT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
COLUMNS = {
    "s3_server": "MinIO's layer",
    "seaweed_server": "SeaweedFS",
    "seaweed_cluster": "SeaweedFS",
    "ceph_server": "Ceph",
}
RIGHTS = {"user": "policies of users", "iam": "policies of users, by the IAM API", "bucket": "a policy of the bucket"}
ELECTION_SECONDS = 90.0
HTTP = urllib3.PoolManager(retries=False)


@dataclass(frozen=True, slots=True)
class Store:
    """A server, and an empty bucket of its owner."""

    server: S3Server
    client: Minio
    bucket: str

    def ask(
        self, method: str, key: str, body: bytes = b"", query: Mapping[str, str] | None = None, **headers: str
    ) -> str:
        """`200`, or the status with the code of the error."""
        said = self.answer(method, key, body, query, **headers)
        code = re.search("<Code>(.*?)</Code>", said.data.decode(errors="replace"))
        return f"{said.status} {code[1]}" if code else str(said.status)

    def answer(
        self, method: str, key: str, body: bytes = b"", query: Mapping[str, str] | None = None, **headers: str
    ) -> urllib3.BaseHTTPResponse:
        """The answer to a presigned request."""
        url = self.client.get_presigned_url(method, self.bucket, key, extra_query_params={**(query or {})})
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return HTTP.request(method, url, body=body or None, headers=sent)


def listings(store: Store) -> str:
    names = ["a/b", "a-b", "a.b"]
    for name in names:
        store.ask("PUT", name, b"x")
    found = [blob.object_name for blob in store.client.list_objects(store.bucket, recursive=True)]
    return {True: "by key", False: "folder by folder"}[found == sorted(names)]


def missing_bucket(store: Store) -> str:
    return _refusal(
        lambda: store.client.put_object(f"new-{uuid.uuid4().hex[:8]}", "key", io.BytesIO(b"x"), 1), "makes it"
    )


def below_another(store: Store) -> str:
    store.ask("PUT", "blob", b"x")
    said = store.ask("PUT", "blob/below", b"y")
    return "both exist" if (said, store.ask("GET", "blob")) == ("200", "200") else said


def not_twice(store: Store) -> str:
    store.ask("PUT", "once", b"x", If_None_Match="*")
    return _heeded(store.ask("PUT", "once", b"y", If_None_Match="*"))


def not_over_another(store: Store) -> str:
    store.ask("PUT", "key", b"x")
    return _heeded(store.ask("PUT", "key", b"y", If_Match='"another"'))


def unchanged(store: Store) -> str:
    etag = store.answer("PUT", "key", b"x").headers["ETag"]
    return _heeded(store.ask("GET", "key", If_None_Match=etag))


def long_part(store: Store) -> str:
    return store.ask("PUT", "x" * 300, b"x")


def own_bucket_again(store: Store) -> str:
    return _refusal(lambda: store.client.make_bucket(store.bucket), "200")


def presigned(store: Store) -> str:
    return ", ".join((store.ask("PUT", "presigned", b"x"), store.ask("GET", "presigned")))


def posted(store: Store) -> str:
    return _post(store, b"x" * 10)


def posted_too_much(store: Store) -> str:
    return _post(store, b"x" * 200)


def _post(store: Store, data: bytes) -> str:
    """The answer to a form whose policy lets it have up to 100 bytes."""
    policy = PostPolicy(store.bucket, datetime.now(UTC) + timedelta(hours=1))
    policy.add_equals_condition("key", "posted")
    policy.add_content_length_range_condition(1, 100)
    fields = {**store.client.presigned_post_policy(policy), "key": "posted", "file": ("file", data)}
    said = HTTP.request("POST", f"{store.server.url}/{store.bucket}", fields=fields)
    code = re.search("<Code>(.*?)</Code>", said.data.decode(errors="replace"))
    return f"{said.status} {code[1]}" if code else str(said.status)


def small_parts(store: Store) -> str:
    return _multipart(store, {1: b"x", 2: b"y"})


def wrong_part(store: Store) -> str:
    return _multipart(store, {1: b"x"}, etag='"0123456789abcdef0123456789abcdef"')


def _multipart(store: Store, parts: Mapping[int, bytes], etag: str = "") -> str:
    made = store.answer("POST", "parts", query={"uploads": ""}).data.decode()
    upload = re.search("<UploadId>(.*?)</UploadId>", made)
    assert upload, made
    named = ""
    for number, data in parts.items():
        query = {"uploadId": upload[1], "partNumber": str(number)}
        found = store.answer("PUT", "parts", data, query).headers["ETag"]
        named += f"<Part><PartNumber>{number}</PartNumber><ETag>{etag or found}</ETag></Part>"
    body = f"<CompleteMultipartUpload>{named}</CompleteMultipartUpload>".encode()
    return store.ask("POST", "parts", body, {"uploadId": upload[1]})


def beyond_the_end(store: Store) -> str:
    store.ask("PUT", "key", b"x")
    return store.ask("GET", "key", Range="bytes=10-20")


def missing_blob(store: Store) -> str:
    return f"{store.ask('GET', 'missing')}, deleted: {store.ask('DELETE', 'missing')}"


def wrong_digest(store: Store) -> str:
    digest = b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()
    return store.ask("PUT", "key", b"x", Content_MD5=digest)


def unknown_key(store: Store) -> str:
    stranger = s3_client(store.server.settings(s3_access_key="nobody"), retries=0)
    return _refusal(lambda: stranger.get_object(store.bucket, "key"), "200")


def wrong_secret(store: Store) -> str:
    stranger = s3_client(store.server.settings(s3_secret_key="wrong-secret"), retries=0)
    return _refusal(lambda: stranger.get_object(store.bucket, "key"), "200")


def rights(store: Store) -> str:
    """`test_store_users.py` tries them."""
    return RIGHTS[store.server.rights]


def _refusal(call: Callable[[], object], otherwise: str) -> str:
    try:
        call()
    except S3Error as error:
        return f"{error.response.status} {error.code}"
    return otherwise


def _heeded(said: str) -> str:
    return "ignored" if said == "200" else said


ROWS: dict[str, Callable[[Store], str]] = {
    "listings": listings,
    "put into a missing bucket": missing_bucket,
    "making one's own bucket again": own_bucket_again,
    "a blob below another (`a` and `a/b`)": below_another,
    "a part of a key longer than 255 bytes": long_part,
    "put with `If-None-Match: *`, again": not_twice,
    "put with `If-Match` of another etag": not_over_another,
    "get with `If-None-Match` of its etag": unchanged,
    "presigned put, get": presigned,
    "presigned post": posted,
    "presigned post of more than its policy allows": posted_too_much,
    "parts of less than 5 MiB": small_parts,
    "completing with a part of another etag": wrong_part,
    "get of a range beyond the end": beyond_the_end,
    "get, delete of what is missing": missing_blob,
    "put with another `Content-MD5`": wrong_digest,
    "an unknown access key": unknown_key,
    "a wrong secret": wrong_secret,
    "rights of users": rights,
}


@pytest.fixture(params=S3_SERVERS)
def store(request: pytest.FixtureRequest) -> Store:
    server: S3Server = request.getfixturevalue(request.param)
    client, bucket = s3_client(server.settings(), retries=0), f"stores-{uuid.uuid4().hex[:8]}"
    client.make_bucket(bucket)
    return Store(server, client, bucket)


def documented() -> dict[str, dict[str, str]]:
    """The table: what each row says of each column."""
    chapter = DOCUMENT.partition("\n## Stores\n")[2]
    table = chapter[chapter.index("\n| ") :].strip().partition("\n\n")[0]
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def test_the_table_has_every_row() -> None:
    assert list(documented()) == list(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_a_store_does_what_the_table_says(row: str, store: Store, request: pytest.FixtureRequest) -> None:
    column = COLUMNS[request.node.callspec.params["store"]]
    assert ROWS[row](store) == documented()[row][column]


@pytest.mark.other_stores
@pytest.mark.usefixtures("seaweed_cluster")  # which skips the test where there is none
async def test_three_servers_of_seaweedfs_may_lose_any_one() -> None:
    """Any: the first of them was the leader. Until another is, calls are Unavailable."""
    with SeaweedCluster() as own:
        blobs = S3Blobs(s3_client(own.settings()), f"stores-{uuid.uuid4().hex[:8]}")
        await blobs.ensure_bucket()
        for number in range(20):
            await blobs.put(f"before/{number}", bytes(1000))
        stop(own.servers[0], seconds=0)

        async def used() -> None:
            for number in range(20):
                assert await blobs.get(f"before/{number}") == bytes(1000)
                await blobs.put(f"after/{number}", bytes(2000))
                assert await blobs.get(f"after/{number}") == bytes(2000)

        async with asyncio.timeout(ELECTION_SECONDS):
            while True:
                try:
                    await used()
                except Unavailable:
                    await asyncio.sleep(0.5)
                else:
                    break
