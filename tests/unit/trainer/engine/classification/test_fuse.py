"""Folding changes how a network computes, not what."""

import copy

import pytest
import torch
from torch import nn

from services.trainer.engine.classification.fuse import folded, fused
from services.trainer.engine.loop.task import freeze_norms
from services.vision.backbones import Network, build, embed

NETWORKS = (
    "mobilenet_v2",
    "mobilenet_v2_keras",
    "mobilenet_v3_large",
    "efficientnet_lite0",
    "resnet18",
    "squeezenet1_1",
)
SIDE = 64


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Network:
    """With statistics and scales as a training leaves them, in double precision."""
    built = build(request.param, 3, seed=0)
    random = torch.Generator().manual_seed(0)
    for norm in (module for module in built.modules() if isinstance(module, nn.BatchNorm2d)):
        for tensor, least in (
            (norm.running_mean, -0.2),
            (norm.running_var, 0.5),
            (norm.weight, 0.5),
            (norm.bias, -0.2),
        ):
            assert tensor is not None
            tensor.data = least + torch.rand(tensor.shape, generator=random)
    return built.double()


def gradients(network: nn.Module, of: Network) -> dict[str, torch.Tensor]:
    """Of each parameter of a network, for a loss that another computes."""
    of.zero_grad()
    torch.manual_seed(0)  # for dropout and stochastic depth
    logits = network(images())
    nn.functional.cross_entropy(logits, torch.tensor([0, 2, 1])).backward()
    return {name: parameter.grad.clone() for name, parameter in of.named_parameters() if parameter.grad is not None}


def images() -> torch.Tensor:
    """Three."""
    return torch.rand(3, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_a_fused_network_has_the_same_features(network: Network):
    torch.testing.assert_close(embed(fused(network), images()), embed(network, images()))


def test_a_folded_network_has_the_same_outputs_and_gradients(network: Network):
    network.train()
    freeze_norms(network)
    expected = gradients(network, network)
    found = gradients(folded(network), network)
    assert found.keys() == expected.keys() == dict(network.named_parameters()).keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=lambda text, name=name: f"{name}: {text}")


def test_it_follows_every_change_of_the_parameters(network: Network):
    view = folded(network.eval())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1)
    torch.testing.assert_close(view(images()), network(images()))


def test_normalisations_that_train_are_not_folded(network: Network):
    network.train()
    twin = copy.deepcopy(network)
    torch.manual_seed(0)
    folded(network)(images())
    torch.manual_seed(0)
    twin(images())
    for (name, buffer), expected in zip(network.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, msg=lambda text, name=name: f"{name}: {text}")


def test_frozen_stages_get_no_gradients(network: Network):
    network.unfreeze(1)
    freeze_norms(network)
    expected = gradients(network, network)
    assert gradients(folded(network), network).keys() == expected.keys()
    assert len(expected) < len(list(network.parameters()))
