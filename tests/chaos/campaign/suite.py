"""A campaign on the whole suite: every process, in replicas, under calls that know what must be true."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from minio import Minio
from PIL import Image

from services.dataset.domain import ADVANCE
from services.infra import jetstream
from services.infra.jetstream_queue import JetStreamQueue
from services.kit import codec
from services.kit.errors import Unavailable
from services.kit.jobs import Job
from services.trainer.reconcile import jobs
from sightline.client.stubs import Stubs
from sightline.client.transport.addresses import Addresses
from sightline.client.transport.credentials import Credentials
from sightline.client.uploads import files_of
from sightline.v1.model_pb2 import Model
from tests.chaos.campaign import audit, probes
from tests.chaos.campaign.broker import Broker
from tests.chaos.campaign.calls import Api, Tally
from tests.chaos.campaign.engine import REAL
from tests.chaos.campaign.faults import Site
from tests.chaos.campaign.installation import Installation
from tests.chaos.campaign.links import Network
from tests.chaos.campaign.probes import Outage, Prober
from tests.chaos.campaign.workload import Caller
from tests.support.juicefs import MinioGateway
from tests.support.servers import ACK_WAIT

IMAGES, SIDE = 24, 52
START_SECONDS = 240.0  # on a busy machine
COLLECT_SECONDS = 90.0  # after the last deletion, until no blob is left: orphans are looked for once a minute
REFUSAL_SECONDS = 10.0  # of an api that promises two: it shares the machine with the whole campaign, and may be frozen
COLLECTED = ("datasets/", "models/", "projects/")


@dataclass(slots=True)
class Campaign:
    """A suite that runs, its callers, and what to disturb."""

    site: Site
    suite: Installation
    api: Api
    tally: Tally
    callers: list[Caller]
    probers: list[Prober]
    outages: list[Outage]
    store: Minio
    traces: Path

    def figures(self) -> dict[str, object]:
        """What was done."""
        answers = [answer for prober in self.probers for answer in prober.answers]
        return {
            "calls": self.tally.answers.total() + len(answers),
            "answers": dict(self.tally.answers),
            **dict(sorted(self.tally.done.items())),
            "children": len(list(self.traces.iterdir())),
            "restarts": self.suite.restarts.total(),
            "store": {mode.value: count for mode, count in self.site.network.spoiled.items()},
            "slowest refusal, s": round(
                probes.slowest(answers, lambda one: one.itself and one.code.name == "UNAVAILABLE"), 1
            ),
        }

    def finish(self) -> None:
        """Checks, once the faults are over, what must be true then; then that nothing is left of what was deleted."""
        models = [model for caller in self.callers for kept in caller.kept for model in kept.models]
        for model in models:
            if model.state == Model.SUCCEEDED:
                self._all(audit.check_bundle(self.store, model))
        self._all(audit.check_traces(audit.traces(self.traces), models))
        for prober in self.probers:
            self._all(probes.late_refusals(prober.answers, REFUSAL_SECONDS))
            if prober.name.startswith("probe predictor"):
                self._all(probes.silent_predictors(prober.answers, self.outages))
        for caller in self.callers:
            caller.clear()
        deadline = time.monotonic() + COLLECT_SECONDS
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(1)
        self._all(f"nothing refers to {key} any more" for key in left)

    def _left(self) -> list[str]:
        """The blobs of datasets and models, except those of stories that a violation ended."""
        abandoned = [own for caller in self.callers for own in caller.abandoned]
        found = [(key, key.split("/")[1]) for key in audit.stored(self.store, *COLLECTED)]
        return [key for key, name in found if not any(name == own or name.startswith(f"{own}-m") for own in abandoned)]

    def _all(self, violations: Sequence[str] | Iterator[str]) -> None:
        for violation in violations:
            self.tally.violated(violation)


@contextmanager
def running(
    seed: str, folder: Path, *, callers: int, replicas: int, models: int = 1, pace: float = 1.0
) -> Generator[Campaign]:
    """A campaign whose callers call from here to the end of the block; then they finish their stories.

    Each story trains that many models, or one more; the steps of a training are shorter by the pace.
    """
    tally, over = Tally(), threading.Event()
    traces, template = folder / "traces", folder / "template"
    traces.mkdir(parents=True)
    with ExitStack() as stack:
        making = stack.enter_context(
            subprocess.Popen([sys.executable, "-m", "tests.chaos.campaign.template", template])
        )
        stack.callback(making.kill)
        network = stack.enter_context(Network(seed))
        broker = stack.enter_context(Broker(folder, network.link))
        gateway = stack.enter_context(MinioGateway())
        environment = {"CAMPAIGN_TRACES": str(traces), "CAMPAIGN_TEMPLATE": str(template), "CAMPAIGN_PACE": str(pace)}
        suite = stack.enter_context(
            Installation(folder, broker, gateway, network, replicas=replicas, environment=environment)
        )
        api = Api(suite.ports, tally)
        stack.callback(api.close)
        suite.wait(START_SECONDS)
        image = _write_images(folder / "images")
        uri = _uploaded(suite, image)
        assert making.wait(START_SECONDS) == 0, "the bundle was not written"
        first = Caller(0, seed, api, uri)
        first.prepare(REAL)
        people = [Caller(number, seed, api, uri, models) for number in range(1, callers + 1)]
        asked = f"models/{REAL}", f"datasets/{REAL}", image.with_name("0.png").read_bytes()
        probers = [Prober.of(replica, *asked) for replica in api.replicas.values()]
        store = Minio(gateway.endpoint, gateway.access_key, gateway.secret_key, secure=False)
        site = Site(broker, network, suite, _repeater(broker, people))
        campaign = Campaign(site, suite, api, tally, [first, *people], probers, [], store, traces)
        pool = stack.enter_context(ThreadPoolExecutor(callers, thread_name_prefix="caller"))
        with ExitStack() as probing:
            for prober in probers:
                probing.enter_context(prober)
            told = [pool.submit(caller.run, over) for caller in people]
            try:
                yield campaign
            finally:
                over.set()
            began = time.monotonic()
            for one in told:
                one.result()
            tally.done["seconds to settle"] = round(time.monotonic() - began)
        campaign.finish()


def _write_images(folder: Path) -> Path:
    """A COCO file with its images, of two categories."""
    folder.mkdir()
    chance = Random(0)
    for number in range(IMAGES):
        shade = 64 if number % 2 else 192
        pixels = bytes(min(255, shade + chance.randrange(60)) for _ in range(SIDE * SIDE * 3))
        Image.frombytes("RGB", (SIDE, SIDE), pixels).save(folder / f"{number}.png")
    described: dict[str, Any] = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": SIDE, "height": SIDE} for n in range(IMAGES)],
        "annotations": [{"id": n, "image_id": n, "category_id": n % 2} for n in range(IMAGES)],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
    }
    (folder / "coco.json").write_text(json.dumps(described))
    return folder / "coco.json"


def _uploaded(suite: Installation, coco: Path) -> str:
    """The uri of the uploaded COCO file, once the dataset service is there."""
    with Stubs(Addresses(dataset=suite.address("dataset")), Credentials()) as client:
        return client.upload_files(files_of(coco))[coco.name]


def _repeater(broker: Broker, callers: Sequence[Caller]) -> Callable[[Random], str]:
    """Publishes again the jobs of what some callers are working on."""

    async def publish(names: list[str]) -> None:
        connection = await jetstream.connect(broker.url, "campaign")
        queue = JetStreamQueue(connection, ACK_WAIT, replicas=3)
        try:
            for name in names:
                if name.startswith("datasets/"):
                    await queue.publish(ADVANCE, codec.encode(Job(name, 1)))
                else:
                    await queue.publish(jobs.KIND, codec.encode(Job(name)))
        except Unavailable:
            pass
        finally:
            await connection.close()

    def repeat(chance: Random) -> str:
        names = [name for caller in callers for name in caller.touched for _ in range(chance.randint(1, 3))]
        asyncio.run(publish(names))
        return f"{len(names)} jobs"

    return repeat
