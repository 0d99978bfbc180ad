"""The studio's files for the browser: scripts, styles and the icon, each known by its digest."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import Response

from services.gateway.errors import Refusal, no_path
from services.gateway.studio.cookies import PREFIX
from sightline.pages.style import CHARTS

FOLDER = Path(__file__).parent / "static"
KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".LICENSE": "text/plain"}
YEAR_SECONDS = 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Asset:
    """A file."""

    content: bytes
    kind: str
    digest: str


class Assets:
    """All of them, and the styles of charts, in memory."""

    def __init__(self) -> None:
        files = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in KINDS}
        files["charts.css"] = CHARTS.encode()
        self._found = {name: _asset(name, content) for name, content in files.items()}

    def url(self, name: str) -> str:
        """Where a page finds the file; changes with its content, so that browsers may keep it."""
        return f"{PREFIX}/static/{name}?v={self._found[name].digest}"

    def response(self, name: str, version: str) -> Response:
        """The file; Refusal."""
        asset = self._found.get(name)
        if asset is None:
            raise Refusal(no_path(f"{PREFIX}/static/{name}"))
        fresh = f"public, max-age={YEAR_SECONDS}, immutable" if version == asset.digest else "no-cache"
        return Response(asset.content, media_type=asset.kind, headers={"cache-control": fresh})


def _asset(name: str, content: bytes) -> Asset:
    return Asset(content, KINDS[Path(name).suffix], hashlib.sha256(content).hexdigest()[:16])
