"""Decoding in child processes against decoding in a thread: time and CPU of ordinary images.

`python bench/bench_decode.py [--pairs N] [--images N]`. Each pair decodes the same images one after the other, once by
each way, in alternating order, and makes the input of a network of 224 pixels from each, as the predictor does. CPU is
that of this process and of the child. Goal: a ratio of at most 1.05.
"""

import argparse
import asyncio
import os
import resource
import statistics
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

from PIL import Image

from services.kit.telemetry import MemoryTelemetry
from services.vision import preprocess
from services.vision.card import InputRule
from services.vision.decode import Decoded, decode_sizes
from services.vision.decode_limits import DecodeLimits
from services.vision.decode_pool import DecodePool

RULE = InputRule(size=224, resize=256)
SIZES = (RULE.at_least,)
SIDES = ((640, 480), (1280, 960), (4000, 3000))
LIMITS = DecodeLimits(1, 1 << 30, cpu_seconds=60, wall_seconds=60, max_scans=100)
Way = Callable[[bytes], Awaitable[object]]


def main() -> None:
    """Prints the median of each way and the ratio, for each size of image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--images", type=int, default=20, help="per run")
    given = parser.parse_args()
    asyncio.run(compare(given.pairs, given.images))


async def compare(pairs: int, images: int) -> None:
    """Runs and prints the pairs."""
    with ThreadPoolExecutor(1) as threads:
        async with DecodePool.running(LIMITS, MemoryTelemetry()) as pool:
            loop = asyncio.get_running_loop()

            async def in_thread(data: bytes) -> object:
                return await loop.run_in_executor(threads, lambda: arranged(decode_sizes(data, SIZES)))

            async def in_process(data: bytes) -> object:
                return await pool.decode(data, "image", SIZES, arranged)

            for width, height in SIDES:
                data = photograph(width, height)
                await in_thread(data)
                await in_process(data)
                (child,) = pool.idle
                ways: list[tuple[Way, list[tuple[float, float]]]] = [(in_thread, []), (in_process, [])]
                for pair in range(pairs):
                    for way, taken in ways if pair % 2 else reversed(ways):
                        taken.append(await measured(way, data, images, child.pid))
                report(f"{width} x {height}", len(data), *(taken for _, taken in ways))


def arranged(decoded: Decoded) -> object:
    """A network's input."""
    return preprocess.apply(decoded.pixels[RULE.at_least], RULE)


def photograph(width: int, height: int) -> bytes:
    """A JPEG with about as much detail as a photograph: noise, smoothed."""
    noise = Image.effect_noise((width // 4, height // 4), 90).convert("RGB")
    out = BytesIO()
    noise.resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", quality=85)
    return out.getvalue()


async def measured(way: Way, data: bytes, images: int, child: int) -> tuple[float, float]:
    """Seconds and CPU-seconds for each image."""
    cpu, start = cpu_seconds(child), time.perf_counter()
    for _ in range(images):
        await way(data)
    return (time.perf_counter() - start) / images, (cpu_seconds(child) - cpu) / images


def cpu_seconds(child: int) -> float:
    """Of this process and the child, by the scheduler's count in nanoseconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime + int(Path(f"/proc/{child}/schedstat").read_text().split()[0]) / 1e9


def report(size: str, size_bytes: int, thread: list[tuple[float, float]], process: list[tuple[float, float]]) -> None:
    """One line: medians in ms, and ratios of medians."""
    line = f"{size:>12}  {size_bytes / 1000:5.0f} KB"
    for index, what in enumerate(("time", "CPU")):
        one, other = (statistics.median(run[index] for run in runs) for runs in (thread, process))
        line += f"   {what}: thread {one * 1e3:6.2f} ms, process {other * 1e3:6.2f} ms, ratio {other / one:.3f}"
    print(line, f"  (load {os.getloadavg()[0]:.1f})", flush=True)


if __name__ == "__main__":
    main()
