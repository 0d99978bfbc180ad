"""`sightline keys sign-models` beside real records and a store."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from services.infra.files import FolderBlobs
from services.infra.jetstream import connect
from services.infra.jetstream_records import JetStreamRecords
from services.kit.records import Table
from services.kit.telemetry import MemoryTelemetry
from services.trainer.domain import Model, ModelState, Served
from services.vision.signatures import SignatureRule
from services.vision.signing import Verifier
from sightline.client import signing_keys
from tests.support.servers import NatsServer
from tests.unit.trainer.support import model, performance, seal_of, sealed

M = "models/of-before"


async def test_a_model_of_before_is_signed_and_another_run_finds_nothing_to_do(
    own_nats_server: NatsServer, tmp_path: Path
) -> None:
    private, public = tmp_path / "signing-key.pem", tmp_path / "bundle-key.pem"
    signing_keys.write(private, public)
    blobs, prefix = FolderBlobs(tmp_path / "store"), f"{M}/uid1/bundle/"
    await blobs.ensure_bucket()
    for file, data in sealed().items():
        await blobs.put(prefix + file, data)
    served = Served(
        trial=f"{M}/trials/t000",
        version="v",
        bundle_key=prefix,
        bundle_digest=seal_of(sealed()),
        performance=performance(),
        performance_key="p",
    )
    connection = await connect(own_nats_server.url, "tests")
    table = Table(JetStreamRecords(connection), Model)
    await table.create(M, model(M, state=ModelState.SUCCEEDED, served=served))

    async def run(**key: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "sightline", "keys", "sign-models"]
        variables = {"SIGHTLINE_NATS_URL": own_nats_server.url, "SIGHTLINE_STORE_DIRECTORY": str(tmp_path / "store")}
        done = await asyncio.to_thread(
            subprocess.run, command, env=os.environ | variables | key, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout or done.stderr

    code, said = await run()
    assert (code, "SIGHTLINE_SIGNING_KEY is not set" in said) == (1, True)
    assert await run(SIGHTLINE_SIGNING_KEY_FILE=str(private)) == (0, f"signed   {M}\n")
    found = (await table.get(M)).value.served
    assert found
    verifier = Verifier.of(public, SignatureRule.REQUIRE, MemoryTelemetry())
    verifier.check(M, "v", found.bundle_digest, found.bundle_signature)
    assert await run(SIGHTLINE_SIGNING_KEY_FILE=str(private)) == (0, f"valid    {M}\n")
    await connection.close()
