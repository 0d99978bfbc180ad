"""A tiny contrastive network: an open_clip checkpoint whose two towers agree on what colours are called.

Its towers are random. Its image projection is fitted by least squares, on many images, to what the text tower says of
their colours, so that names do tell of images, as after a contrastive training.
"""

import io
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from gc import get_referents
from pathlib import Path
from unittest.mock import patch

import msgspec
import numpy as np
import safetensors.torch
import timm
import torch
from PIL import Image
from torch import Tensor
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from bench import snapshots
from services.vision import preprocess
from services.vision.backbones import build, embed
from services.vision.card import InputRule
from services.vision.catalogue import BACKBONES, Backbone, Library
from services.vision.decode import decode
from services.vision.open_clip import CONFIG_FILE, TOKENIZER_FILE
from services.vision.packs import PROMPTS, TEXT_PREFIX, TextSpec
from services.vision.snapshot import AnnotationKind, Entry
from services.vision.text_tower import IMAGE_PROJECTION, TextNetwork, TextTower
from services.vision.timm_networks import DeviceClass, Pretraining
from services.weights import app as weights_app

WIDTH, EMBEDDING, FEATURES = 32, 32, 64
MERGES = [("p", "h"), ("ph", "o"), ("pho", "t"), ("phot", "o</w>"), ("o", "f</w>")]
RIDGE = 1e-2
NETWORK = Backbone(
    name="test_vit.tiny",
    download=None,
    hub="somebody/tiny",
    licence="MIT",
    rule=InputRule(160, 160),
    gflops=0.04,
    seconds=0.001,
    parameters=0.3,
    device=DeviceClass.CORES_2,
    architecture="test_vit",
    pretraining=Pretraining.CONTRASTIVE,
    library=Library.TIMM,
    feature_dim=FEATURES,
    patch=16,
    pooling="token",
)


COLOURS = {
    "red": (230, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 60, 220),
    "yellow": (230, 220, 40),
    "purple": (150, 40, 190),
    "orange": (240, 140, 30),
}


def colour(name: str, random: np.random.Generator, side: int = 32) -> bytes:
    """A PNG with a hint of a colour, in a light, on a pattern and with noise that say nothing."""
    light = random.uniform(0.3, 1.0, 3) * 255
    pattern = np.kron(random.normal(0, 40, (4, 4, 3)), np.ones((side // 4, side // 4, 1)))
    pixels = 0.5 * light + 0.5 * np.array(COLOURS[name]) + pattern + random.normal(0, 10, (side, side, 3))
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def write_colours(directory: Path, per_category: int, names: Sequence[str] = tuple(COLOURS), seed: int = 1) -> Path:
    """A snapshot of every colour's images, the categories called by these names."""
    random = np.random.default_rng(seed)
    items: list[tuple[Entry, bytes, str]] = []
    for number in range(per_category * len(COLOURS)):
        label = number % len(COLOURS)
        entry = Entry(image_id=number + 1, file_name=f"{number + 1}.png", width=32, height=32, labels=(label,))
        items.append((entry, colour(list(COLOURS)[label], random), "png"))
    return snapshots.write(directory, AnnotationKind.IMAGE_CLASSIFICATION, list(enumerate(names, start=1)), items)


def pretrained(folder: Path, images: int = 300, seed: int = 0) -> Path:
    """A checkpoint of a network that has seen that many images of colours."""
    random = np.random.default_rng(1000 + seed)
    labels = [number % len(COLOURS) for number in range(images)]
    drawn = [colour(list(COLOURS)[label], random) for label in labels]
    return write_checkpoint(folder, drawn, tuple(COLOURS), labels, seed)


@contextmanager
def in_catalogue() -> Generator[None]:
    """The catalogue has the network for a while."""
    row = {NETWORK.name: NETWORK}
    with patch.dict(get_referents(BACKBONES)[0], row), patch.dict(weights_app.ALL, row):
        yield


def tokenizer(merges: list[tuple[str, str]] = MERGES) -> CLIPTokenizer:
    """CLIP's, with few merges."""
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=merges)  # pyright: ignore[reportArgumentType] - the stub knows texts only


def tokenizer_json(merges: list[tuple[str, str]] = MERGES) -> str:
    return tokenizer(merges).backend_tokenizer.to_str()


def spec(**changes: object) -> TextSpec:
    """Of the tiny text tower."""
    usual = TextSpec(
        context_length=40,
        vocabulary=len(tokenizer()),
        width=WIDTH,
        heads=4,
        layers=2,
        embedding=EMBEDDING,
        logit_scale=30.0,
    )
    return msgspec.structs.replace(usual, **changes)


def text_state(seed: int = 0) -> dict[str, Tensor]:
    """A text tower as open_clip names its tensors: random, but for a projection that tells the colours' names apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = TextNetwork(spec())
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, 0.0 if parameter.dim() > 1 else 0.5, 0.5 if parameter.dim() > 1 else 0.1)
        directions = torch.linalg.qr(torch.randn(EMBEDDING, len(COLOURS)))[0].T
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    texts = [prompt.replace("{}", name) for name in COLOURS for prompt in PROMPTS]
    read = tower({**state, "text_projection": torch.eye(WIDTH)}).embed(texts).double()
    wanted = directions.repeat_interleave(len(PROMPTS), dim=0).double()
    state["text_projection"] = torch.linalg.lstsq(read, wanted, driver="gelsd").solution.float().contiguous()
    return state


def tower(state: Mapping[str, Tensor]) -> TextTower:
    """Of a tower's tensors, without a use for images."""
    named = {TEXT_PREFIX + name: tensor for name, tensor in state.items()}
    return TextTower({**named, TEXT_PREFIX + IMAGE_PROJECTION: torch.zeros(1)}, tokenizer_json(), spec())


def embedded(names: Sequence[str], state: Mapping[str, Tensor]) -> Tensor:
    """What the tower says of names, [names, EMBEDDING]: of unit length, the mean over the usual prompts."""
    texts = [prompt.replace("{}", name) for name in names for prompt in PROMPTS]
    read = tower(state).embed(texts).reshape(len(names), len(PROMPTS), -1)
    return torch.nn.functional.normalize(read.mean(dim=1), dim=1)


def write_checkpoint(
    folder: Path, images: list[bytes], names: tuple[str, ...], labels: list[int], seed: int = 0
) -> Path:
    """An open_clip checkpoint, with what must be beside it; its image tower knows the labelled images' names."""
    folder.mkdir(parents=True, exist_ok=True)
    with in_catalogue(), torch.random.fork_rng(devices=[]):
        network = build(NETWORK.name, 1, seed=seed)
        inputs = [preprocess.apply(decode(image, name="drawing"), NETWORK.rule) for image in images]
        features = embed(network, torch.stack(inputs)).numpy().astype(np.float64)
    text = text_state(seed)
    wanted = embedded(names, text).numpy().astype(np.float64)[labels]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    gram = features.T @ features + RIDGE * np.trace(features.T @ features) / FEATURES * np.eye(FEATURES)
    projection = np.linalg.solve(gram, features.T @ wanted).T
    trunk = timm.create_model("test_vit", pretrained=False, num_classes=0)
    own = {key: tensor for key, tensor in network.features[0].state_dict().items() if key in trunk.state_dict()}
    state = {
        **{f"visual.trunk.{key}": tensor.contiguous() for key, tensor in own.items()},
        "visual.head.proj.weight": torch.from_numpy(projection.astype(np.float32)).contiguous(),
        "logit_scale": torch.tensor(np.log(30.0), dtype=torch.float32),
        **{f"text.{key}": tensor for key, tensor in text.items()},
    }
    safetensors.torch.save_file(state, folder / "open_clip_model.safetensors")
    given = spec()
    text_cfg = {
        "context_length": given.context_length,
        "vocab_size": given.vocabulary,
        "width": given.width,
        "heads": given.heads,
        "layers": given.layers,
    }
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": {"embed_dim": EMBEDDING, "text_cfg": text_cfg}}))
    (folder / TOKENIZER_FILE).write_text(tokenizer_json())
    return folder / "open_clip_model.safetensors"
