"""Users of a store whose IAM API takes keys that we choose, as SeaweedFS's does; AWS chooses its own."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

from minio import time as amazon_time
from minio.credentials.providers import Provider
from minio.error import S3Error
from minio.signer import sign_v4_s3
from pydantic import SecretStr

from services.infra.s3 import KEYS, s3_client
from services.infra.s3_connections import connections
from services.kit.errors import StoreRefused
from services.kit.settings import Settings

VERSION = "2010-05-08"  # of the API
POLICY = "sightline"
EXISTS = "EntityAlreadyExists"


class IamUsers:
    """Makes users, each with one policy of its own. StoreRefused with the API's code, urllib3's HTTPError."""

    def __init__(self, settings: Settings, owner: Provider) -> None:
        self._settings, self._owner = settings, owner
        self._http = connections(settings)

    def make(self, name: str, access: str, secret: str, policy: Mapping[str, Any]) -> None:
        """The user has this policy and this key when this returns; its other keys remain valid."""
        self._call("CreateUser", EXISTS, UserName=name)
        self._call("PutUserPolicy", UserName=name, PolicyName=POLICY, PolicyDocument=json.dumps(policy))
        if access in re.findall("<AccessKeyId>([^<]*)", self._call("ListAccessKeys", UserName=name)):
            if self._is_valid(access, secret):
                return
            self._call("DeleteAccessKey", UserName=name, AccessKeyId=access)
        self._call("CreateAccessKey", UserName=name, AccessKeyId=access, SecretAccessKey=secret)

    def _is_valid(self, access: str, secret: str) -> bool:
        keys = {"s3_access_key": SecretStr(access), "s3_secret_key": SecretStr(secret)}
        client = s3_client(self._settings.model_copy(update=keys))
        try:
            next(iter(client.list_objects(self._settings.bucket)), None)
        except S3Error as error:
            return error.code not in KEYS
        return True

    def _call(self, action: str, allowed: str = "", **parameters: str) -> str:
        """The answer of the API; StoreRefused for any error but the allowed one."""
        body = urlencode({"Action": action, "Version": VERSION, **parameters}).encode()
        url, now = f"http{'s' * self._settings.s3_secure}://{self._settings.s3_endpoint}/", datetime.now(UTC)
        digest = hashlib.sha256(body).hexdigest()
        headers = sign_v4_s3(
            method="POST",
            url=urlsplit(url),
            region=self._settings.s3_region,
            headers={
                "Host": self._settings.s3_endpoint,
                "Content-Type": "application/x-www-form-urlencoded",
                "Content-Length": str(len(body)),
                "x-amz-content-sha256": digest,
                "x-amz-date": amazon_time.to_amz_date(now),
            },
            credentials=self._owner.retrieve(),
            content_sha256=digest,
            date=now,
        )
        answer = self._http.urlopen("POST", url, body=body, headers=headers)
        text = answer.data.decode(errors="replace")
        code = _first("Code", text) or str(answer.status)
        if answer.status != 200 and code != allowed:
            raise StoreRefused(what=f"{action} of {parameters['UserName']}", code=f"{code}: {_first('Message', text)}")
        return text


def _first(tag: str, text: str) -> str:
    found = re.search(f"<{tag}>([^<]*)", text)
    return found[1] if found else ""
