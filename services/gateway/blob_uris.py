"""Blob URIs of the retired service's clients, and the places in the own store that stand for them."""

from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, unquote, urlsplit

from services.kit.errors import UnreadableUri

STORE = "s3://"


@dataclass(frozen=True, slots=True)
class BlobUris:
    """A table of prefixes: `https://account.blob.core.windows.net/photos/` is `s3://bucket/photos/`.

    Law: nothing is fetched. A URI that no prefix covers, and that is not the store's, is refused. Of several prefixes
    the longest one counts. Queries (a SAS token) are dropped, and percent-encoding is undone.
    """

    table: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `PREFIX=s3://…`, several separated by commas; ValueError."""
        pairs: list[tuple[str, str]] = []
        for entry in filter(None, map(str.strip, text.split(","))):
            blob, found, store = entry.rpartition("=s3://")
            if not found or not blob.startswith(("https://", "http://")) or not store:
                raise ValueError(f"{entry!r} is not `https://HOST/PATH=s3://BUCKET/PREFIX`")
            pairs.append((blob.rstrip("/") + "/", f"{STORE}{store.rstrip('/')}/"))
        return cls(tuple(sorted(pairs, key=lambda pair: len(pair[0]), reverse=True)))

    def to_store(self, uri: str, field: str = "url") -> str:
        """Where in the store the URI leads; UnreadableUri, which names the field."""
        if uri.startswith(STORE):
            return uri
        try:
            parts = urlsplit(uri)
        except ValueError:
            raise UnreadableUri(field=field, uri=uri, problem="it is malformed", bucket="BUCKET") from None
        plain = f"{parts.scheme.lower()}://{parts.netloc.lower()}{parts.path}"
        for blob, store in self.table:
            head, _, path = blob.partition("://")[2].partition("/")
            prefix = f"{blob.partition('://')[0].lower()}://{head.lower()}/{path}"
            if plain.startswith(prefix):
                return store + unquote(plain.removeprefix(prefix))
        raise UnreadableUri(
            field=field,
            uri=uri,
            problem="no entry of SIGHTLINE_BLOB_PREFIXES says where in the store this is",
            bucket="BUCKET",
        )

    def from_store(self, uri: str) -> str:
        """The URI as its callers know it; itself if no prefix covers it."""
        for blob, store in self.table:
            if uri.startswith(store):
                return blob + quote(uri.removeprefix(store))
        return uri
