"""Takes the pictures of docs/studio.md from a running studio: `tools/studio_pictures.py URL MODEL DATASET`.

With `--all FOLDER`, takes all pages instead, whole, to be looked through: light, dark, and 360 pixels wide. With
`--other MODEL`, the page for comparing has another model too.
"""

import argparse
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

FOLDER = Path(__file__).parents[1] / "docs/images"
MAX_BYTES = 80 * 1024
WIDTH, HEIGHT = 1000, 700
PAGES = {
    "model": "models/{model}",
    "try": "models/{model}/try",
    "dataset": "datasets/{dataset}",
    "new": "new",
}
MORE = {
    "sign-in": "sign-in",
    "models": "models",
    "mistakes": "models/{model}/mistakes?true=&predicted=",
    "compare": "models/{model}/compare?with={other}",
    "datasets": "datasets",
    "images": "datasets/{dataset}/images",
    "labels": "datasets/{dataset}/labels",
    "train": "datasets/{dataset}/train",
    "admin": "admin",
    "missing": "models/none",
}
LOOKS = {"light": (WIDTH, "light"), "dark": (WIDTH, "dark"), "narrow": (360, "light")}


def main() -> None:
    """Writes `studio-*.jpg`; SystemExit if one is too large for the repository."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("dataset")
    parser.add_argument("--other", default="")
    parser.add_argument("--all", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    names = {"model": given.model, "dataset": given.dataset, "other": given.other}
    folder: Path = given.all or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, path in (PAGES | MORE if given.all else PAGES).items():
            url = f"{given.url}/studio/{path.format(**names)}"
            for look, (width, scheme) in LOOKS.items() if given.all else [("", LOOKS["light"])]:
                picture = folder / f"studio-{name}{'-' if look else ''}{look}.jpg"
                take(browser, url, picture, width, scheme, whole=bool(given.all))
                if not given.all and picture.stat().st_size > MAX_BYTES:
                    sys.exit(f"{picture} has {picture.stat().st_size} bytes, more than {MAX_BYTES}")
        browser.close()


def take(browser: Browser, url: str, picture: Path, width: int, scheme: str, *, whole: bool) -> None:
    """One picture."""
    page = browser.new_page(
        viewport={"width": width, "height": HEIGHT}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page.goto(url, wait_until="networkidle")
    page.evaluate("document.querySelectorAll('img').forEach((image) => { image.loading = 'eager'; })")
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(500)
    page.screenshot(path=picture, type="jpeg", quality=70, full_page=whole)
    page.close()


if __name__ == "__main__":
    main()
