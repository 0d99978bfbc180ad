"""Settings: what is printed of them."""

import json

from pydantic import SecretStr

from services.kit.settings import Settings


def test_no_secret_is_printed_nor_a_password_in_a_url() -> None:
    settings = Settings(nats_url="nats://me:secret@a:1,nats://me:secret@b:2", s3_secret_key=SecretStr("secret"))
    printed = settings.masked()
    assert "secret" not in printed.replace("s3_secret_key", "")
    assert json.loads(printed)["nats_url"] == "nats://**********@a:1,nats://**********@b:2"
