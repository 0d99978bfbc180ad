"""Bundles and packs that are meant to harm: none is loaded, none runs anything, and the error says which file it is."""

from __future__ import annotations

import asyncio
import json
import pickle
import struct
import subprocess
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from services.infra.files import FolderBlobs
from services.kit.errors import BundleUnusable, Unavailable
from services.kit.telemetry import MemoryTelemetry
from services.predictor.bundles import BundleSource
from services.predictor.domain import Bundle
from services.predictor.engines import load
from services.vision import bundle
from services.vision.backbones import build
from services.vision.packs import PackUnusable, description_of, read_pack, require_fit
from services.vision.sealing import seal
from services.vision.signatures import SignatureRule
from services.vision.signing import Verifier
from services.vision.weights import load_strictly, read_tensors
from tests.support.classifiers import classifier_of
from tests.support.packs import SQUEEZENET, add_description, write_weights
from tests.unit.predictor.support import card

KEY = "models/m/v/"
UNSIGNED = Verifier((), SignatureRule.OFF, MemoryTelemetry())


class Runs:
    """What a pickle runs when it is loaded: leaves a file."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return subprocess.call, (["touch", str(self._mark)],)


def pickled(folder: Path) -> bytes:
    return pickle.dumps(Runs(folder / "ran"))


def torch_file(folder: Path) -> bytes:
    out = BytesIO()
    torch.save({"head.weight": Runs(folder / "ran")}, out)
    return out.getvalue()


def zipped(folder: Path) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("../../ran", "x")
        archive.writestr("archive/data.pkl", pickled(folder))
    return out.getvalue()


def header(text: bytes, rest: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + rest


def entry(**values: Any) -> bytes:
    described = {"dtype": "F32", "shape": [3, 512], "data_offsets": [0, 6144]} | values
    return header(json.dumps({"head.weight": described, "head.bias": described}).encode(), bytes(6144))


WEIGHTS: dict[str, Callable[[Path], bytes]] = {
    "a pickle": pickled,
    "torch's own format with a pickle": torch_file,
    "an archive with a path out of it": zipped,
    "nothing": lambda _: b"",
    "a header longer than the file": lambda _: header(b"{}", length=2**63 - 1),
    "a header of 2^64 - 1 bytes": lambda _: header(b"{}", length=2**64 - 1),
    "a header of 0 bytes": lambda _: header(b"", length=0),
    "a header that is no JSON": lambda _: header(b"{" * 1000),
    "a header that is nested": lambda _: header(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "offsets beyond the file": lambda _: entry(data_offsets=[0, 2**40]),
    "offsets that end before they begin": lambda _: entry(data_offsets=[6144, 0]),
    "negative offsets": lambda _: entry(data_offsets=[-8, 6136]),
    "a shape of 2^62 elements": lambda _: entry(shape=[2**31, 2**31]),
    "a shape that overflows": lambda _: entry(shape=[2**63, 2, 2]),
    "a negative shape": lambda _: entry(shape=[-3, 512]),
    "tensors that overlap": lambda _: entry(),
    "an unknown type": lambda _: entry(dtype="PICKLE"),
    "a type of objects": lambda _: entry(dtype="O"),
}
CARDS: dict[str, Callable[[Any], Any]] = {
    "no object": lambda _: [],
    "nested": lambda made: made | {"x": "DEEP"},
    "no network": lambda made: made | {"backbones": []},
    "a network that is its own copy": lambda made: made | {"backbones": [made["backbones"][0] | {"shares": 7}]},
    "a size of 0": lambda made: made | {"backbones": [_rule(made, size=0, resize=0)]},
    "a negative size": lambda made: made | {"backbones": [_rule(made, size=-64, resize=-72)]},
    "a size of 2^40": lambda made: made | {"backbones": [_rule(made, size=2**40, resize=2**40)]},
    "no category": lambda made: made | {"categories": []},
    "other categories than the head": lambda made: made | {"categories": made["categories"] * 2},
    "another kind": lambda made: made | {"kind": "GENERIC_DETECTOR"},
    "another version": lambda made: made | {"format_version": 2},
    "a date that is none": lambda made: made | {"created": "yesterday"},
}
LISTS: dict[str, Callable[[dict[str, str]], Any]] = {
    "a path out of the folder": lambda listed: listed | {"../../../ran": "0"},
    "an absolute path": lambda listed: listed | {"/etc/passwd": "0"},
    "the folder itself": lambda listed: listed | {".": "0"},
    "the folder above": lambda listed: listed | {"..": "0"},
    "a name with a NUL": lambda listed: listed | {"a\0b": "0"},
    "no name": lambda listed: listed | {"": "0"},
    "a list of itself": lambda listed: listed | {"digests.json": "0"},
    "far too many files": lambda listed: listed | {f"{number}": "0" for number in range(1000)},
    "no weights": lambda listed: {"card.json": listed["card.json"]},
    "no object": lambda _: [],
    "a file that is not there": lambda listed: listed | {"more.bin": "0"},
}


def _rule(made: Any, **values: int) -> Any:
    backbone = made["backbones"][0]
    return backbone | {"rule": backbone["rule"] | values}


def graph_of(folder: Path, *nodes: onnx.NodeProto, initializers: tuple[TensorProto, ...] = ()) -> bytes:
    """A graph with the names that classifiers have."""
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", "h", "w", 3])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, None)
    made = helper.make_graph(nodes, "g", [pixels], [features], initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString()


def external(location: str) -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros((1, 512), np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "2048"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def reading(location: str) -> Callable[[Path], bytes]:
    node = helper.make_node("Identity", ["w"], ["features"])
    return lambda folder: graph_of(folder, node, initializers=(external(location.format(outside=folder / "outside")),))


GRAPHS: dict[str, Callable[[Path], bytes]] = {
    "no graph": lambda _: b"\0" * 1000,
    "a pickle": pickled,
    "tensors of a file above": reading("../../outside"),
    "tensors of an absolute path": reading("{outside}"),
    "tensors of a device": reading("/dev/zero"),
    "tensors beyond the end of the weights": lambda folder: graph_of(
        folder, helper.make_node("Identity", ["w"], ["features"]), initializers=(_beyond(),)
    ),
    "an operator of somebody's own": lambda folder: graph_of(
        folder, helper.make_node("Run", ["pixels"], ["features"], domain="com.example")
    ),
    "a cycle": lambda folder: graph_of(
        folder, helper.make_node("Relu", ["b"], ["features"]), helper.make_node("Relu", ["features"], ["b"])
    ),
    "an output that nothing makes": graph_of,
    "a size that no memory has": lambda folder: graph_of(
        folder,
        helper.make_node("ConstantOfShape", ["s"], ["features"]),
        initializers=(numpy_helper.from_array(np.array([2**20, 2**20, 2**10], np.int64), "s"),),
    ),
}


def _beyond() -> TensorProto:
    tensor = external("weights.safetensors")
    for item in tensor.external_data:
        item.value = str(2**40) if item.key == "offset" else item.value
    return tensor


def spoilt(folder: Path, part: str, kind: str) -> None:
    """Changes the bundle in `folder/model`; its digests fit afterwards."""
    model = folder / "model"
    match part:
        case "weights":
            (model / "weights.safetensors").write_bytes(WEIGHTS[kind](folder))
        case "card":
            made = json.dumps(CARDS[kind](json.loads((model / "card.json").read_bytes()))).encode()
            (model / "card.json").write_bytes(made.replace(b'"DEEP"', b"[" * 100_000 + b"]" * 100_000))
        case _:
            (model / "network-0.onnx").write_bytes(GRAPHS[kind](folder))
    seal(model)


@pytest.fixture(scope="module")
def whole(graphs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a bundle that is sound."""
    folder = tmp_path_factory.mktemp("whole")
    bundle.write(folder, classifier_of(card(), build(SQUEEZENET.name, 3, seed=1)), graphs)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


async def at_once(run: Callable[[], object]) -> object:
    return run()


async def loading(folder: Path, digest: str = "") -> object:
    """Loads what is in the folder `model` as a predictor does, from a store."""
    blobs = FolderBlobs(folder / "store")
    for file in (folder / "model").iterdir():
        await blobs.put_file(KEY + file.name, file)
    with ThreadPoolExecutor(1) as workers:
        source = BundleSource(
            blobs, folder / "cache", partial(load, device="cpu", threads=1), workers, at_once, UNSIGNED
        )
        loaded = await source.load(Bundle("models/m", "v", f"s3://sightline/{KEY}", digest))
    return loaded.runner


@pytest.fixture
def folder(tmp_path: Path, whole: dict[str, bytes]) -> Path:
    (tmp_path / "outside").write_bytes(bytes(4096))
    (tmp_path / "model").mkdir()
    for name, data in whole.items():
        (tmp_path / "model" / name).write_bytes(data)
    return tmp_path


def assert_nothing_ran(folder: Path) -> None:
    """No file was left by a bundle, and nothing of it is in the cache."""
    assert not list((folder / "cache").iterdir())
    assert not list(folder.rglob("ran"))


CASES = [
    *(("weights", kind) for kind in WEIGHTS),
    *(("card", kind) for kind in CARDS),
    *(("graph", kind) for kind in GRAPHS),
]


async def test_the_bundle_that_the_others_were_made_of_is_loaded(folder: Path) -> None:
    assert await loading(folder)


@pytest.mark.parametrize(("part", "kind"), CASES, ids=map(": ".join, CASES))
async def test_a_hostile_file_of_a_bundle_is_refused_and_runs_nothing(part: str, kind: str, folder: Path) -> None:
    spoilt(folder, part, kind)
    with pytest.raises(BundleUnusable, match="models/m: bundle v "):
        await loading(folder)
    assert_nothing_ran(folder)


@pytest.mark.parametrize("kind", LISTS)
async def test_a_hostile_list_of_files_leads_to_none_of_them(kind: str, folder: Path) -> None:
    listed = folder / "model" / "digests.json"
    listed.write_bytes(msgspec.json.encode(LISTS[kind](json.loads(listed.read_bytes()))))
    with pytest.raises((BundleUnusable, Unavailable)):
        await loading(folder)
    assert_nothing_ran(folder)


async def test_a_graph_without_its_network_in_the_catalogue_is_only_data(folder: Path) -> None:
    file = folder / "model" / "card.json"
    made = json.loads(file.read_bytes())
    file.write_bytes(json.dumps(made | {"backbones": [made["backbones"][0] | {"name": "os.system"}]}).encode())
    seal(folder / "model")
    assert await loading(folder)


async def test_a_link_in_the_store_is_not_followed(folder: Path) -> None:
    store = folder / "store" / KEY
    await loading(folder)
    (store / "card.json").unlink()
    (store / "card.json").symlink_to(folder / "model" / "card.json")
    (folder / "model").rename(folder / "moved")
    (folder / "model").mkdir()
    with pytest.raises(Unavailable, match="no longer there"):
        await loading(folder)


@pytest.mark.parametrize("kind", WEIGHTS)
async def test_a_hostile_file_of_weights_is_refused_and_runs_nothing(kind: str, tmp_path: Path) -> None:
    path = write_weights(tmp_path / SQUEEZENET.file_name, 0.5)
    path.write_bytes(WEIGHTS[kind](tmp_path))
    with pytest.raises((ValueError, RuntimeError)):
        await asyncio.to_thread(lambda: load_strictly(SQUEEZENET, read_tensors(path, SQUEEZENET)))
    assert not (tmp_path / "ran").exists()


DESCRIPTIONS: dict[str, dict[str, Any]] = {
    "another licence": {"licence": "CC-BY-NC-4.0"},
    "no licence": {"licence": ""},
    "another network": {"id": "resnet50"},
    "another digest": {"sha256": "0" * 64},
    "no digest": {"sha256": ""},
    "a path for a network": {"id": "../../squeezenet1_1"},
    "another pooling": {"pooling": "os.system"},
}


@pytest.mark.parametrize("kind", DESCRIPTIONS)
def test_a_hostile_description_of_weights_is_refused(kind: str, tmp_path: Path) -> None:
    path = write_weights(tmp_path / SQUEEZENET.file_name, 0.5)
    sound = add_description(path)
    add_description(path, **DESCRIPTIONS[kind])
    pack = read_pack(path)
    assert pack
    with pytest.raises(PackUnusable, match="squeezenet1_1"):
        require_fit(pack, path, sound.sha256, SQUEEZENET)


def test_a_description_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    path = write_weights(tmp_path / SQUEEZENET.file_name, 0.5)
    description_of(path).write_bytes(b'{"x":' + b"[" * 100_000)
    with pytest.raises(PackUnusable, match="does not describe weights"):
        read_pack(path)
