"""The keys for requests to S3, which may change at any time: here those in files, reloaded when they change."""

import time
from abc import ABC, abstractmethod
from pathlib import Path

from minio.credentials.credentials import Credentials
from minio.credentials.providers import Provider

from services.kit.errors import StoreRefused
from services.kit.log import Log
from services.kit.settings import Settings
from sightline.client.transport.reloading import ReloadingFiles

REPLACE_SECONDS = 2.0  # the most that may pass between replacing one file and the other
LOOK_SECONDS = 0.05

_log = Log(__name__)


class ChangingKeys(Provider, ABC):
    """Keys that somebody replaces while they are in use."""

    settings: str  # that say where they are from

    @abstractmethod
    def replaced(self, used: Credentials) -> bool:
        """Whether there are others than those used, which the store has refused."""


class KeyFiles(ChangingKeys):
    """Signs each request with the files' current keys; if a file is empty or gone, with the last pair.

    Before an old key is withdrawn, every process must have the new files: requests signed with it are then refused.
    """

    settings = "SIGHTLINE_S3_ACCESS_KEY_FILE and SIGHTLINE_S3_SECRET_KEY_FILE"

    def __init__(self, access: Path | str, secret: Path | str) -> None:
        """Each is a file or a fixed key. StoreRefused if a file cannot be used."""
        self._given = access, secret
        try:
            files = [given for given in self._given if isinstance(given, Path)]
            self._watched = ReloadingFiles(files, self._pair, lambda error: _log.error("s3_keys_unusable", error))
        except (OSError, ValueError) as error:
            raise StoreRefused(what="every request", code=f"{error}; see {self.settings}") from None

    @classmethod
    def of(cls, settings: Settings) -> "KeyFiles | None":
        """The settings' keys; None if none is in a file."""
        files = settings.s3_access_key_file, settings.s3_secret_key_file
        fixed = settings.s3_access_key.get_secret_value(), settings.s3_secret_key.get_secret_value()
        return cls(files[0] or fixed[0], files[1] or fixed[1]) if any(files) else None

    def retrieve(self) -> Credentials:
        """The same object as long as the keys are the same."""
        return self._watched.get()

    def replaced(self, used: Credentials) -> bool:
        """Whether the keys differ from those used, now or in a moment: the files may change one after the other."""
        deadline = time.monotonic() + REPLACE_SECONDS
        while self.retrieve() is used:
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOOK_SECONDS)
        return True

    def _pair(self, contents: list[bytes]) -> Credentials:
        found = iter(contents)
        access, secret = (
            next(found).decode("ascii").strip() if isinstance(given, Path) else given for given in self._given
        )
        if not access or not secret:
            raise ValueError("a key of the store is empty")
        return Credentials(access, secret)
