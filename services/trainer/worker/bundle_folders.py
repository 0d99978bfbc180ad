"""Bundles that a worker reads: fetched from the store, and checked against the record and the signature."""

import asyncio
import shutil
from pathlib import Path

from services.kit.errors import BlobNotFound, BundleUnusable, ModelNotFound
from services.kit.log import Log
from services.kit.names import parent
from services.trainer.base_model import BaseModel
from services.trainer.domain import Evaluation, Trial
from services.trainer.export import Export
from services.trainer.worker.workspace import Workspace
from services.vision.sealing import BundleCorrupt, verify
from services.vision.signing import Verifier

_log = Log(__name__)


class BundleFolders:
    """Each as a folder of files. All raise ModelNotFound if the bundle was deleted, and BundleUnusable.

    Law: a folder that is returned has the files of the record, signed as the settings ask.
    """

    def __init__(self, workspace: Workspace, verifier: Verifier) -> None:
        self._workspace = workspace
        self._verifier = verifier

    async def served(self, record: Evaluation | Export) -> Path:
        """The bundle to measure or to export."""
        seal = record.bundle_digest, record.bundle_signature
        model = parent(record.name)
        return await self._checked(record.bundle_key, model, model, record.model_version, *seal)

    async def continued(self, trial: Trial) -> Path | None:
        """The copy of its base model's bundle, which is deleted only with the trial's model; None without one."""
        if not trial.base_key:
            return None
        signed_for = trial.base_model or parent(trial.name)
        seal = trial.base_digest, trial.base_signature
        return await self._checked(trial.base_key, parent(trial.name), signed_for, "of its base model", *seal)

    async def base(self, base: BaseModel) -> Path:
        """The base model's own bundle, which is deleted with that."""
        seal = base.bundle_digest, base.bundle_signature
        return await self._checked(base.bundle_key, base.name, base.name, base.version, *seal)

    async def _checked(self, key: str, model: str, signed_for: str, version: str, digest: str, signature: str) -> Path:
        self._verifier.check(signed_for, version, digest, signature)
        try:
            directory = await self._workspace.folder(key)
        except BlobNotFound:
            raise ModelNotFound(name=model) from None
        if not digest:
            _log.warning("bundle_without_digest", name=model, version=version)
        try:
            await asyncio.to_thread(verify, directory, digest)
        except BundleCorrupt as fault:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)  # so that the next attempt fetches it
            raise BundleUnusable(name=model, version=version, problem=fault) from fault
        return directory
