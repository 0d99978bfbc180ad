"""The backbones of the catalogue as networks."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision

from services.trainer.engine.classification.fuse import fused
from services.vision.backbones import build, embed, load_weights
from services.vision.card import CardBackbone, CardCategory, ModelCard, ModelKind, WeightsSource
from services.vision.catalogue import BACKBONES, Library
from services.vision.classifier import Classifier, ClassifierNetwork

NAMES = sorted(name for name, row in BACKBONES.items() if row.parameters < 25)
WHOLE = [name for name in NAMES if BACKBONES[name].whole]
LARGE = sorted(set(BACKBONES) - set(NAMES))
SIDES = {name: 4 * row.patch if row.patch > 1 else 64 for name, row in BACKBONES.items()}


def images(count: int = 2, size: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
def test_a_backbone_embeds_into_its_dimension_and_consists_of_its_stages(name: str) -> None:
    network = build(name, 3, seed=0)
    features = embed(network, images(2, SIDES[name]))
    assert features.shape == (2, BACKBONES[name].feature_dim)
    assert network.eval()(images(2, SIDES[name])).shape == (2, 3)
    if BACKBONES[name].middle_dim:
        both = embed(network, images(), middle=True)
        assert both.shape == (2, BACKBONES[name].feature_dim + BACKBONES[name].middle_dim)
        torch.testing.assert_close(both[:, : features.shape[1]], features)
        middle = network.features[: BACKBONES[name].stage_starts[-1]](images()).mean(dim=(2, 3))
        torch.testing.assert_close(both[:, features.shape[1] :], middle, rtol=1e-4, atol=1e-5)
    staged = [id(parameter) for stage in network.stages() for parameter in stage.parameters()]
    assert len(staged) == len(set(staged))
    loose = [*network.features[0].parameters(recurse=False)] if name in WHOLE else []  # tokens, position embeddings
    rest = {id(parameter) for parameter in (*network.head.parameters(), *loose)}
    assert {*staged, *rest} == {id(parameter) for parameter in network.parameters()}
    network.unfreeze(len(network.stages()) - 1)
    assert not any(parameter.requires_grad for parameter in loose)
    network.unfreeze(len(network.stages()))
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("name", [name for name in NAMES if not BACKBONES[name].end_padding and name not in WHOLE])
def test_a_network_embeds_what_its_library_s_own_gives_its_classifier(name: str) -> None:
    backbone = BACKBONES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if backbone.library is Library.TIMM:
            reference = timm.create_model(backbone.architecture, pretrained=False).eval()
        else:
            reference = torchvision.models.get_model(backbone.architecture, weights=None).eval()
    network = build(name, 3, seed=0)
    load_weights(network, reference.state_dict())
    seen: list[torch.Tensor] = []
    classifier = dict(reference.named_modules()).get("classifier") or dict(reference.named_modules())["fc"]
    classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        reference(images())
        expected = seen[0].mean(dim=(2, 3), keepdim=True) if seen[0].ndim == 4 else seen[0]
        expected = torch.flatten(network.norm(expected), 1)
    torch.testing.assert_close(embed(network, images()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_network_embeds_what_timm_gives_its_classifier(name: str) -> None:
    options: dict[str, Any] = {"dynamic_img_size": True} if BACKBONES[name].patch > 1 else {}
    reference: Any = timm.create_model(name, pretrained=False, **options).eval()
    network, batch = build(name, 3, seed=0), images(2, SIDES[name])
    load_weights(network, reference.state_dict())
    with torch.inference_mode():
        expected = reference.forward_head(reference.forward_features(batch), pre_logits=True)
    rounding = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(embed(network, batch), expected, rtol=0, atol=rounding)
    torch.testing.assert_close(embed(fused(network), batch), expected, rtol=0, atol=rounding)


@pytest.mark.parametrize("name", [name for name in LARGE if BACKBONES[name].whole])
def test_a_large_network_takes_exactly_timm_s_tensors(name: str) -> None:
    with torch.device("meta"):
        network = build(name, 3)
        state = timm.create_model(name, pretrained=False).state_dict()
    load_weights(network, state)
    assert len(network.stages()) == 4
    some = next(key for key in state if key.startswith(("blocks.", "stages.")))
    with pytest.raises(RuntimeError, match="Missing"):
        load_weights(network, {key: tensor for key, tensor in state.items() if key != some})


def test_a_classifier_restored_from_its_tensors_has_the_tables_that_these_leave_out() -> None:
    name = "tiny_vit_5m_224.dist_in22k_ft_in1k"
    cards = (CardBackbone(name, BACKBONES[name].rule, WeightsSource.RANDOM),)
    card = ModelCard(
        kind=ModelKind.GENERIC_CLASSIFIER,
        categories=(CardCategory(1, "a"), CardCategory(2, "b")),
        backbones=cards,
        created=datetime.now(UTC),
    )
    made = Classifier(card, ClassifierNetwork(cards, [build(name, 1, seed=0)], torch.nn.Linear(320, 2)))
    again = Classifier.from_state(card, made.state())
    assert not any(buffer.is_meta for buffer in again.network.buffers())
    with torch.inference_mode():
        torch.testing.assert_close(again.network(images()), made.network(images()))


def test_the_seed_decides_the_network_and_the_global_generator_is_untouched() -> None:
    state = torch.get_rng_state()
    first, second = build("squeezenet1_1", 3, seed=5), build("squeezenet1_1", 3, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_unfreezing_trains_the_head_and_the_last_stages_only() -> None:
    network = build("mobilenet_v3_small", 3, seed=0)
    for depth in range(5):
        network.unfreeze(depth)
        network.train()
        trained = [all(p.requires_grad for p in stage.parameters()) for stage in network.stages()]
        assert trained == [index < depth for index in range(4)]
        assert all(parameter.requires_grad for parameter in network.head.parameters())
        first_trained = [*BACKBONES["mobilenet_v3_small"].stage_starts, len(network.features)][4 - depth]
        assert [child.training for child in network.features] == [
            index >= first_trained for index in range(len(network.features))
        ]


def test_frozen_running_statistics_do_not_change_while_the_rest_trains() -> None:
    network = build("mobilenet_v2", 3, seed=0)
    network.unfreeze(1)
    network.train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network(images(4)).sum().backward()
    changed = {name for name, buffer in network.named_buffers() if not torch.equal(buffer, before[name])}
    assert changed
    assert all(int(name.split(".")[1]) >= 14 for name in changed)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0"])
def test_running_statistics_adapt_within_a_short_training(name: str) -> None:
    momenta = {module.momentum for module in build(name, 3).modules() if isinstance(module, torch.nn.BatchNorm2d)}
    assert momenta == {0.1}


def test_embedding_does_not_change_the_network() -> None:
    network = build("mobilenet_v2", 3, seed=0)
    network.train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    embed(network, images())
    assert network.training
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


def test_weights_that_do_not_fit_are_refused() -> None:
    network = build("squeezenet1_1", 3, seed=0)
    state = torchvision.models.squeezenet1_1(weights=None).state_dict()
    load_weights(network, state)
    with pytest.raises(RuntimeError, match="Unexpected"):
        load_weights(network, {**state, "features.99.weight": torch.zeros(1)})
    state.pop("features.0.weight")
    with pytest.raises(RuntimeError, match="Missing"):
        load_weights(network, state)


def test_keras_padding_is_on_the_right_and_below() -> None:
    """If only the last row and column of an even image differ, only the last outputs of the first layer do."""
    network = build("mobilenet_v2_keras", 3, seed=0).eval()
    plain = build("mobilenet_v2", 3, seed=0).eval()
    load_weights(plain, {k: v for k, v in network.state_dict().items() if k.startswith("features.")})
    first, other = network.features[0], plain.features[0]
    sample_image = images(1)
    with torch.inference_mode():
        shifted = torch.nn.functional.pad(sample_image, (0, 1, 0, 1))[:, :, 1:, 1:]
        assert first(sample_image).shape == other(sample_image).shape
        inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
        torch.testing.assert_close(first(sample_image)[inner], other(shifted)[inner])


@pytest.mark.parametrize(
    "name", ["mobilenet_v2", "mobilenet_v2_keras", "squeezenet1_1", "efficientnet_lite0", "efficientnet_lite2"]
)
def test_the_published_weights_load_strictly(name: str, weights_dir: Path) -> None:
    state = safetensors.torch.load_file(weights_dir / f"{name}.safetensors")
    network = build(name, 3, seed=0)
    load_weights(network, state)
    own = [tensor for key, tensor in network.state_dict().items() if key.startswith("features.")]
    published = [tensor for key, tensor in state.items() if not key.startswith("classifier.")]
    assert len(own) == len(published)
    sums = [sorted(float(tensor.double().sum()) for tensor in tensors) for tensors in (own, published)]
    assert sums[0] == sums[1]
