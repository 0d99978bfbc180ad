"""Does what `sightline weights` asks for: `python -m services.weights list | add | pull | verify ...`.

Prints one JSON document. Exit status 1 if something failed; the document then has `error`, or a row with `problem`.
"""

import argparse
import asyncio
import sys
from pathlib import Path

import msgspec

from services.infra.store import open_blobs
from services.kit.errors import InvalidRequest, SightlineError
from services.kit.settings import Settings, load
from services.kit.telemetry import MemoryTelemetry
from services.weights.listing import listed
from services.weights.shelves import FolderShelf, Shelf, StoreShelf


class WeightsSettings(Settings):
    """Those of the store, and a worker's folder."""

    weights_dir: Path | None = None


def main() -> None:
    """Prints the document."""
    arguments = _parser().parse_args()
    settings = load(WeightsSettings)
    document: dict[str, object] = {}
    try:
        done = asyncio.run(_ACTIONS[arguments.action](arguments, settings, document))
    except (SightlineError, OSError, ValueError) as fault:
        done, document["error"] = False, str(fault)
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    if not done:
        raise SystemExit(1)


async def _list(arguments: argparse.Namespace, settings: WeightsSettings, document: dict[str, object]) -> bool:
    document["networks"] = await listed(await _shelves(arguments, settings))
    return True


async def _add(arguments: argparse.Namespace, settings: WeightsSettings, document: dict[str, object]) -> bool:
    from services.weights import app  # noqa: PLC0415 - imports torch, which `list` does without

    shelf = (await _shelves(arguments, settings))[0]
    added = await app.add(shelf, arguments.file, arguments.network, arguments.licence, arguments.source)
    document["added"] = [added]
    return True


async def _pull(arguments: argparse.Namespace, settings: WeightsSettings, document: dict[str, object]) -> bool:
    from services.weights import app  # noqa: PLC0415 - see `_add`

    shelf = (await _shelves(arguments, settings))[0]
    document["added"] = added = list[app.Added]()
    for network in arguments.networks:
        added.append(await app.pull(shelf, network))
    return True


async def _verify(arguments: argparse.Namespace, settings: WeightsSettings, document: dict[str, object]) -> bool:
    from services.weights import app  # noqa: PLC0415 - see `_add`

    found = [row for shelf in await _shelves(arguments, settings) for row in await app.verify(shelf)]
    document["verified"] = found
    return not any(row.problem for row in found)


_ACTIONS = {"list": _list, "add": _add, "pull": _pull, "verify": _verify}


async def _shelves(arguments: argparse.Namespace, settings: WeightsSettings) -> list[Shelf]:
    """The folder that the arguments name, or else the store, then the worker's folder; InvalidRequest for none."""
    if arguments.folder:
        return [FolderShelf(arguments.folder)]
    shelves: list[Shelf] = []
    if settings.store_directory or settings.s3_endpoint:
        shelves.append(StoreShelf(await open_blobs(settings, MemoryTelemetry())))
    if settings.weights_dir:
        shelves.append(FolderShelf(settings.weights_dir))
    if not shelves and arguments.action != "list":
        problem = "there is neither a store nor a folder; pass --folder, or --data with the folder of `sightline up`"
        raise InvalidRequest(field="folder", problem=problem)
    return shelves


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.weights", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list")
    actions.add_parser("verify")
    actions.add_parser("pull").add_argument("networks", nargs="+")
    add = actions.add_parser("add")
    add.add_argument("file", type=Path)
    add.add_argument("--network", required=True)
    add.add_argument("--licence")
    add.add_argument("--source", default="")
    return parser


if __name__ == "__main__":
    main()
