"""The words of the studio, all in one file, `text.json`, so that they can be translated."""

import json
from pathlib import Path

from sightline.plurals import fill

FILE = Path(__file__).parent / "text.json"


class Text:
    """The text by key. KeyError for a key that the file lacks."""

    def __init__(self, content: str | None = None) -> None:
        self._found: dict[str, str] = json.loads(FILE.read_text() if content is None else content)
        self.language = self._found["language"]

    def __call__(self, key: str, **values: object) -> str:
        """The text of the key with its values filled in; `{count:image|images}` is a counted noun."""
        text = self._found[key]
        return fill(text, values) if values else text

    def named(self, group: str, name: str, default: str = "") -> str:
        """The word for one value of an enumeration or one metric; without one, the default or the name itself."""
        return self._found.get(f"{group}.{name}", default or name)

    def below(self, prefix: str) -> dict[str, str]:
        """The texts whose keys begin so, for scripts."""
        return {key.removeprefix(prefix): text for key, text in self._found.items() if key.startswith(prefix)}
