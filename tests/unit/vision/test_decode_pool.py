"""Decoding in child processes, under attack: what one image takes, no other loses."""

import asyncio
import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from services.kit import callers, landlock
from services.kit.callers import Caller
from services.kit.errors import InvalidImage, InvalidImageFormat, InvalidImageSize, Unavailable
from services.kit.telemetry import MemoryTelemetry
from services.vision import decode_limits, decode_pool
from services.vision.cost import Cost
from services.vision.decode import Decoded, decode_sizes, inspect
from services.vision.decode_limits import DecodeLimits
from services.vision.decode_messages import Decode, Request
from services.vision.decode_metrics import ADMITTED, DECODES, KILLS, WAITING, Kill, Outcome
from services.vision.decode_pool import DecodePool
from services.vision.decode_process import Template
from services.vision.repack import encode_for_pack
from tests.support.hostile_images import encoded, giants, jpeg_of_scans
from tests.support.odd_images import RGB, png_of
from tests.support.waiting import eventually

LIMITS = DecodeLimits(2, 1 << 30, cpu_seconds=60, wall_seconds=120, max_scans=100)
ORDINARY = encoded(Image.effect_noise((320, 240), 60).convert("RGB"), "JPEG")


class World:
    """A pool and its measurements."""

    def __init__(self, pool: DecodePool, telemetry: MemoryTelemetry) -> None:
        self.pool = pool
        self.telemetry = telemetry

    async def pixels(self, data: bytes, size: int = 128) -> NDArray[np.uint8]:
        return await self.pool.decode(data, "a.jpg", [size], lambda decoded: decoded.pixels[size].copy())

    def limit(self, **changes: object) -> None:
        self.pool._limits = replace(self.pool._limits, **changes)

    def kills(self, reason: Kill) -> float:
        return self.telemetry.value(KILLS, reason=reason)

    async def busy(self) -> None:
        """Returns once a process is decoding."""
        await eventually(lambda: self.pool._turns._running.total() > 0 and self.pool._threads._work_queue.empty())


@pytest.fixture
async def world() -> AsyncGenerator[World]:
    telemetry = MemoryTelemetry()
    async with DecodePool.running(LIMITS, telemetry) as pool:
        yield World(pool, telemetry)
    assert (telemetry.value(WAITING), telemetry.value(ADMITTED)) == (0, 0)


@contextmanager
def calling(subject: str) -> Generator[None]:
    token = callers.current.set(Caller(subject, frozenset()))
    try:
        yield
    finally:
        callers.current.reset(token)


async def test_the_result_is_that_of_decoding_here(world: World) -> None:
    odd = {
        "cut off": ORDINARY[:-2],
        "12 bits": png_of(np.full((60, 80, 3), 4_000, np.uint16), RGB),
        "ordinary": ORDINARY,
    }
    for form, data in {**giants(300), **odd}.items():
        here = decode_sizes(data, [64, 200], form)

        def same(there: Decoded, here: Decoded = here) -> bool:
            return there.info == here.info and all(np.array_equal(there.pixels[k], here.pixels[k]) for k in (64, 200))

        assert await world.pool.decode(data, form, [64, 200], same), form
        packed = await world.pool.repack(data, form, "datasets/d")
        assert (packed.info, packed.image) == (here.info, encode_for_pack(data, inspect(data, form), name=form)), form


async def test_errors_are_those_of_decoding_here(world: World) -> None:
    for data in (b"", b"hello", ORDINARY[:3000], encoded(Image.new("RGB", (40, 40)), "PNG")):
        with pytest.raises(InvalidImage) as here:
            decode_sizes(data, [64], "x.png")
        with pytest.raises(InvalidImage) as there:
            await world.pool.decode(data, "x.png", [64], lambda _: None)
        assert (type(there.value), str(there.value)) == (type(here.value), str(here.value))
    packed = await world.pool.repack(ORDINARY[:3000], "x.png", "datasets/d")
    assert isinstance(packed.image, InvalidImageFormat)
    assert packed.info.width == 320


async def test_a_caller_that_goes_away_ends_its_decoding(world: World) -> None:
    """In a thread, it ran on: two of these made another caller's prediction take 21.9 s."""
    slow = jpeg_of_scans(4_000, 99)
    await world.pixels(ORDINARY)
    call = asyncio.create_task(world.pixels(slow))
    await world.busy()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert world.kills(Kill.CANCELLED) == 1
    assert world.pool.last_ended.status == signal.SIGKILL
    assert (await world.pixels(ORDINARY)).shape == (240, 320, 3)


async def test_a_process_is_not_given_to_others_before_it_is_done_even_if_its_caller_is_cancelled_twice(
    world: World,
) -> None:
    """As by its deadline and by its connection. The next image was decoded in the memory of this one."""
    slow = jpeg_of_scans(4_000, 99)
    await world.pixels(ORDINARY)
    call = asyncio.create_task(world.pixels(slow))
    await world.busy()
    call.cancel()
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    expected = decode_sizes(ORDINARY, [128]).pixels[128]
    for _ in range(3):
        np.testing.assert_array_equal(await asyncio.wait_for(world.pixels(ORDINARY), 30), expected)
    assert world.kills(Kill.CANCELLED) == 1


async def test_an_image_that_takes_too_much_cpu_ends_and_says_so(world: World) -> None:
    world.limit(cpu_seconds=0.1)
    with pytest.raises(InvalidImageSize, match=r"0\.1 CPU-seconds \(SIGHTLINE_DECODE_CPU_SECONDS\)"):
        await world.pixels(jpeg_of_scans(2_000, 99))
    assert (world.kills(Kill.CPU), world.kills(Kill.CRASHED)) == (1, 0)
    world.limit(cpu_seconds=60)
    assert (await world.pixels(ORDINARY)).shape == (240, 320, 3)


async def test_an_image_that_takes_too_long_ends_and_says_so(world: World) -> None:
    await world.pixels(ORDINARY)
    for child in world.pool.idle:
        os.kill(child.pid, signal.SIGSTOP)
    world.limit(wall_seconds=0.05)
    with pytest.raises(InvalidImageSize, match="SIGHTLINE_DECODE_SECONDS"):
        await world.pixels(ORDINARY)
    assert world.kills(Kill.WALL) == 1


async def test_an_image_that_takes_more_memory_than_its_header_says_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_limits, "cost_of", lambda data, max_scans: Cost())
    with pytest.raises(InvalidImageSize, match="needs more memory to decode"):
        await world.pixels(encoded(Image.new("1", (16_000, 16_000)), "PNG"))
    assert (await world.pixels(ORDINARY)).shape == (240, 320, 3)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (jpeg_of_scans(64, 2_006), "has more than 100 scans (SIGHTLINE_MAX_IMAGE_SCANS)"),
        (
            b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f" + struct.pack("<I", 15_999 | 15_999 << 14),
            "more than the limit of 1024 MiB (SIGHTLINE_DECODE_BYTES)",
        ),
        (
            encoded(Image.new("1", (3_000, 2_000)), "PNG"),
            "is 3000 x 2000 pixels, more than the limit of 5000000 pixels here (SIGHTLINE_MAX_PREDICTION_PIXELS)",
        ),
    ],
    ids=["scans", "memory", "pixels"],
)
async def test_what_costs_too_much_is_refused_before_it_is_decoded(world: World, data: bytes, says: str) -> None:
    if "PREDICTION_PIXELS" in says:
        world.limit(max_pixels=5_000_000, pixels_setting="SIGHTLINE_MAX_PREDICTION_PIXELS")
    with pytest.raises(InvalidImageSize) as refused:
        await world.pixels(data)
    assert says in str(refused.value)
    assert not world.pool._turns._running
    assert world.telemetry.value(DECODES, outcome=Outcome.REFUSED) == 1


async def test_a_process_that_died_costs_no_image(world: World) -> None:
    await world.pixels(ORDINARY)
    for child in world.pool.idle:
        os.kill(child.pid, signal.SIGKILL)
    assert (await world.pixels(ORDINARY)).shape == (240, 320, 3)
    assert world.pool._template
    os.kill(world.pool._template.pid, signal.SIGKILL)
    for _ in range(3):
        assert (await world.pixels(ORDINARY)).shape == (240, 320, 3)


async def test_a_pool_that_can_start_no_process_is_not_ready_until_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> Template:
        raise BlockingIOError("Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(decode_pool, "RETRY_SECONDS", 0.01)
        patch.setattr(decode_pool, "Template", refused)
        async with DecodePool.running(LIMITS, MemoryTelemetry()) as pool:
            await eventually(lambda: not pool.is_ready)
            with pytest.raises(Unavailable, match="no process can be started"):
                await pool.decode(ORDINARY, "a.jpg", [128], lambda decoded: None)
            patch.setattr(decode_pool, "Template", Template)
            await eventually(lambda: pool.is_ready)
            assert await pool.decode(ORDINARY, "a.jpg", [128], lambda decoded: True)


async def test_an_image_that_crashes_every_process_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    send = decode_pool.Child.ask

    def crash(child: decode_pool.Child, *args: object) -> object:
        os.kill(child.pid, signal.SIGSEGV)
        return send(child, *args)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(decode_pool.Child, "ask", crash)
    with pytest.raises(InvalidImageFormat, match="ends the process that decodes it"):
        await world.pixels(ORDINARY)
    assert world.kills(Kill.CRASHED) == 2
    monkeypatch.undo()
    assert (await world.pixels(ORDINARY)).shape == (240, 320, 3)


async def test_one_callers_many_slow_images_do_not_hold_up_anothers(world: World) -> None:
    slow, finished = jpeg_of_scans(1_500, 60), list[str]()

    async def send(subject: str, data: bytes) -> None:
        with calling(subject):
            await world.pixels(data)
        finished.append(subject)

    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(send("greedy", slow))
        await world.busy()
        group.create_task(send("other", ORDINARY))
    assert finished.index("other") <= 4


def test_a_process_that_decodes_has_no_network_no_secrets_and_few_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_S3_SECRET_KEY", "hush")
    template = Template()
    try:
        child = template.fork()
        request = Request(Decode((64,)), "a.jpg", len(ORDINARY), 1 << 28, 60)
        child.ask(request, ORDINARY, lambda answer, buffer: None)
        of = Path(f"/proc/{child.pid}")
        assert b"hush" not in (of / "environ").read_bytes()
        assert template.kept is bool(landlock.supported())
        assert ((of / "ns/net").readlink() != Path("/proc/self/ns/net").readlink()) is template.isolated
        sockets = [entry for entry in (of / "fd").iterdir() if str(entry.readlink()).startswith("socket:")]
        assert len(sockets) == 1
        limits = (of / "limits").read_text()
        assert re.findall(r"Max (?:core )?file size +(\d+)", limits) == ["0", "0"]
    finally:
        template.close()


def test_no_process_outlives_the_service() -> None:
    program = (
        "import sys, time; from services.vision.decode_process import Template;"
        "template = Template(); print(template.pid, template.fork().pid, flush=True); time.sleep(60)"
    )
    service = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert service.stdout
    pids = [int(pid) for pid in service.stdout.readline().split()]
    service.kill()
    service.wait()
    service.stdout.close()
    asyncio.run(eventually(lambda: not any(_runs(pid) for pid in pids)))


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


async def test_what_pillow_warns_of_is_not_in_the_services_log(capfd: pytest.CaptureFixture[str]) -> None:
    """A caller's images wrote lines of plain text into a log that has one JSON object per line."""
    damaged = bytearray(encoded(Image.new("RGB", (64, 64)), "TIFF"))
    damaged[8:10] = b"\xff\xff"  # far more tags than there are
    async with DecodePool.running(LIMITS, MemoryTelemetry()) as pool:
        with suppress(InvalidImage):
            await pool.decode(bytes(damaged), "image", (224,), lambda decoded: decoded.info)
    assert "Warning" not in capfd.readouterr().err
