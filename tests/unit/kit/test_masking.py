"""What callers' uris have as passwords and parameters is in no error and in no finding; names of files stay whole."""

from __future__ import annotations

import pytest

from services.dataset.findings import make
from services.kit.blobs import from_uri
from services.kit.errors import InvalidName, UnreadableUri
from services.kit.log import Log
from services.kit.masking import without_credentials
from tests.support.logs import captured_log

SECRET = "hunter2"
LEAKY = (
    f"https://account.blob.core.windows.net/c/a.jpg?sv=1&sig={SECRET}",
    f"s3://sightline/uploads/u/a.jpg?X-Amz-Signature={SECRET}",
    f"https://me:{SECRET}@host/a.jpg",
    f"s3://me:{SECRET}@sightline/a.jpg",
    f"https://host/#access_token={SECRET}",
    f"two: nats://u:{SECRET}@a:1,nats://u:{SECRET}@b:2 and https://h/?k={SECRET}",
)


@pytest.mark.parametrize("text", LEAKY)
def test_no_error_finding_or_line_of_the_log_has_it(text: str) -> None:
    assert SECRET not in without_credentials(text)
    error = InvalidName(field="name", value=text, expected="models/{model}")
    assert SECRET not in error.message + str(error.metadata)
    assert SECRET not in str(make("imageMissing", text, 1, uri=text, similar=""))
    with captured_log() as stream:
        Log("services.test").warning("tried", problem=f"cannot read {text}")
    assert SECRET not in stream.getvalue()
    assert "cannot read" in stream.getvalue()


@pytest.mark.parametrize("text", LEAKY[:4])
def test_a_uri_with_a_credential_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(UnreadableUri) as refused:
        from_uri(text, "sightline")
    assert SECRET not in refused.value.message + str(refused.value.metadata)


@pytest.mark.parametrize(
    "text", ["s3://sightline/uploads/u/what?.jpg", "s3://b/a#1.png", "s3://b/me@home.jpg", "a?b=c"]
)
def test_names_of_files_are_quoted_as_they_are(text: str) -> None:
    assert without_credentials(text) == text


def test_a_file_with_parameters_in_its_name_can_be_read() -> None:
    assert from_uri("s3://sightline/uploads/u/show.php?id=3.jpg", "sightline") == "uploads/u/show.php?id=3.jpg"
