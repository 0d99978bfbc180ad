"""Takes the pictures of docs/studio.md from a running studio: `tools/studio_pictures.py URL MODEL DATASET`."""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parents[1] / "docs/images"
MAX_BYTES = 80 * 1024
WIDTH, HEIGHT = 1000, 700
PAGES = {
    "model": "models/{model}",
    "try": "models/{model}/try",
    "dataset": "datasets/{dataset}",
    "new": "new",
}


def main(base: str, model: str, dataset: str) -> None:
    """Writes `studio-*.jpg`; SystemExit if one is too large for the repository."""
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        for name, path in PAGES.items():
            page.goto(f"{base}/studio/{path.format(model=model, dataset=dataset)}", wait_until="networkidle")
            page.wait_for_timeout(500)
            picture = FOLDER / f"studio-{name}.jpg"
            page.screenshot(path=picture, type="jpeg", quality=70)
            if picture.stat().st_size > MAX_BYTES:
                sys.exit(f"{picture} has {picture.stat().st_size} bytes, more than {MAX_BYTES}")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
