"""What folding frozen batch normalisations into convolutions gains while a classifier is fine-tuned on a CPU.

`python bench/bench_folding.py [--rounds N]`: steps of both kinds in turn, in one process, on random images and weights;
the medians, and the median of the rounds' ratios. Memory and threads are set as for training children.
"""

import argparse
import statistics
import time

import torch
from torch import nn

from bench import support
from services.trainer.engine.classification.fuse import folded
from services.vision.backbones import Network, build

NETWORKS = {"mobilenet_v2": 256, "efficientnet_lite0": 256, "efficientnet_lite2": 297}  # sides
DEPTHS = {"all stages": 4, "the last two": 2}
BATCH = 16


def main() -> None:
    """Prints a line for each network and depth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    support.become_like_a_training_child()
    print(support.machine())
    for name, side in NETWORKS.items():
        for words, depth in DEPTHS.items():
            network = build(name, 10, seed=0)
            network.unfreeze(depth)
            network.eval()
            usual, faster = Steps(network, network, side), Steps(network, folded(network), side)
            pairs = [(usual.seconds(), faster.seconds()) for _ in range(rounds + 1)][1:]
            before, after = (1000 * statistics.median(times) / BATCH for times in zip(*pairs, strict=True))
            ratio = statistics.median(slow / fast for slow, fast in pairs)
            print(
                f"{name}, {words}: {before:.1f} ms an image, folded {after:.1f}; median ratio {ratio:.2f}", flush=True
            )


class Steps:
    """Training steps of a network, as another computes it."""

    def __init__(self, network: Network, computing: nn.Module, side: int) -> None:
        self.computing = computing
        self.optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-4, fused=True)
        self.images = torch.rand(BATCH, 3, side, side).contiguous(memory_format=torch.channels_last)
        self.labels = torch.arange(BATCH) % 10

    def seconds(self) -> float:
        """Of one step."""
        began = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(self.computing(self.images), self.labels).backward()
        self.optimizer.step()
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
