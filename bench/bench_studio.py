"""First paint of the studio's pages in headless Chromium: `python bench/bench_studio.py [--rounds N]`.

A suite in a temporary folder registers the demo's digits and trains on them for half a minute; then each page is opened
in a new browser, which has nothing of it yet, and once more in the same one. First paint is what the browser reports
(paint timing: first contentful paint, since the navigation began).
"""

import argparse
import asyncio
import shutil
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from bench import support
from sightline.client.stubs import Stubs
from sightline.demo import digits
from sightline.local.stack import Stack
from sightline.v1.model_service_pb2 import WatchModelRequest

GOAL_MS = 300
BUDGET_SECONDS = 30
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
PAGES = (
    "models",
    "models/m",
    "models/m/try",
    "models/m/compare",
    "datasets",
    "datasets/train",
    "datasets/train/images",
    "datasets/train/labels",
    "datasets/train/train",
    "new",
    "admin",
)


def main() -> None:
    """Prints the median of each page, cold and warm, and of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    chromium = shutil.which("chromium")
    if not chromium:
        raise SystemExit("chromium is not installed; tools/system-packages lists what the project needs.")
    print(support.machine(), flush=True)

    async def serve() -> None:
        with tempfile.TemporaryDirectory(prefix="sightline-bench-") as data:
            async with Stack(Path(data), base_port=0) as stack:
                await asyncio.to_thread(prepare, stack, Path(data) / "digits")
                await asyncio.to_thread(measure, f"{stack.gateway}/studio", chromium, rounds)

    asyncio.run(serve())


def prepare(stack: Stack, folder: Path) -> None:
    """A dataset `train`, and a model `m` that was trained on it and measured on another one."""
    training, test = digits.write(folder)
    with Stubs(stack.addresses) as client:
        support.register(client, "train", training.coco)
        support.register(client, "test", test.coco)
        model = support.create_model(client, "m", "train", "test", BUDGET_SECONDS)
        for _ in client.models.WatchModel(WatchModelRequest(name=model)):
            pass


def measure(base: str, chromium: str, rounds: int) -> None:
    """The table."""
    print(f"{'page':24}{'first paint, ms':>24}{'again, ms':>24}{'elements':>10}")
    medians: list[float] = []
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for path in PAGES:
            cold, warm, elements = painted(browser, f"{base}/{path}", rounds)
            medians.append(statistics.median(cold))
            print(f"{path:24}{support.spread(cold):>24}{support.spread(warm):>24}{elements:>10}", flush=True)
        browser.close()
    print(f"median of the pages {statistics.median(medians):.0f} ms, slowest {max(medians):.0f} ms, goal {GOAL_MS} ms")


def painted(browser: Browser, url: str, rounds: int) -> tuple[list[float], list[float], int]:
    """The times of the first visit and of the second, and how many elements the page has."""
    cold, warm, elements = list[float](), list[float](), 0
    for _ in range(rounds):
        with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
            page = context.new_page()
            cold.append(first_paint(page, url))
            warm.append(first_paint(page, url))
            elements = int(page.evaluate("document.getElementsByTagName('*').length"))
    return cold, warm, elements


def first_paint(page: Page, url: str) -> float:
    """When something of the page was seen, in milliseconds after the visit began."""
    page.goto(url, wait_until="load")
    page.wait_for_function(f"() => {PAINTED}")
    return float(page.evaluate(PAINTED))


if __name__ == "__main__":
    main()
