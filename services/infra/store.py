"""Opens the blob store that the settings name."""

from services.infra.files import FolderBlobs
from services.infra.s3 import S3Blobs, s3_client
from services.infra.s3_connections import PATIENT_SECONDS
from services.infra.s3_identity import changing_keys
from services.kit.errors import StoreRefused, Unavailable
from services.kit.metered import MeteredBlobs
from services.kit.settings import Settings
from services.kit.telemetry import Telemetry

FIXED = "SIGHTLINE_BUCKET, SIGHTLINE_S3_REGION, SIGHTLINE_S3_ACCESS_KEY and SIGHTLINE_S3_SECRET_KEY"


async def open_blobs(settings: Settings, telemetry: Telemetry, answer_seconds: float = PATIENT_SECONDS) -> MeteredBlobs:
    """The folder if one is set, otherwise S3, metered; its bucket exists when this returns.

    For `answer_seconds` see S3Blobs. Unavailable, StoreRefused.
    """
    try:
        blobs = _blobs(settings, answer_seconds)
        await blobs.ensure_bucket()
    except ValueError as error:  # the S3 client's, which names no setting
        raise StoreRefused(what=settings.s3_endpoint, code=f"{error}; see {FIXED}") from error
    return MeteredBlobs(blobs, telemetry)


def _blobs(settings: Settings, answer_seconds: float) -> FolderBlobs | S3Blobs:
    if settings.store_directory is not None:
        return FolderBlobs(settings.store_directory, settings.bucket)
    if not settings.s3_endpoint:
        problem = "there is none: set SIGHTLINE_STORE_DIRECTORY, or SIGHTLINE_S3_ENDPOINT and its keys"
        raise Unavailable(what="The store", problem=problem)
    keys = changing_keys(settings)
    return S3Blobs(s3_client(settings, keys), settings.bucket, keys=keys, answer_seconds=answer_seconds)
