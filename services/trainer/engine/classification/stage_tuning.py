"""Trains the last stages of a network, from a linear head, on stored maps (LP-FT, Kumar et al., 2022)."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from services.kit.errors import Diverged
from services.trainer.engine.classification.fuse import folded
from services.trainer.engine.classification.heads import LinearHead
from services.trainer.engine.classification.linear_head import begin_with
from services.trainer.engine.classification.stage_maps import LAST_STAGES, StageMaps
from services.trainer.engine.data import Floats, Indices
from services.trainer.engine.loop.checkpoint import Plan
from services.trainer.engine.loop.step import CLIP_NORM
from services.trainer.messages import TrainTask
from services.vision.backbones import Network

EVALUATED = 64  # maps at a time
SLOWER = 0.7  # share of the rate of the stage above: earlier stages have less to learn


@dataclass(frozen=True, slots=True)
class StageTuning:
    """A pretrained network and the maps of all images. Everything random follows from the task's seed."""

    task: TrainTask
    network: Network
    maps: StageMaps
    labels: Indices
    step_done: Callable[[], None]  # called after every step; may raise

    def steps_per_epoch(self, images: int) -> int:
        """An epoch's incomplete last batch is dropped."""
        return max(1, images // self.task.recipe.batch_size)

    def trained(self, rows: Indices, head: LinearHead, epochs: int, steps: int | None = None) -> Network:
        """A copy that starts with the head and has seen a random view of each row in each epoch.

        With `steps`, it ends after that many. Raises Diverged if the loss is not finite.
        """
        task, recipe = self.task, self.task.recipe
        network, optimizer = self._start(head)
        computing = folded(network) if task.device == "cpu" else network
        per_epoch = self.steps_per_epoch(len(rows))
        plan = Plan(total_steps=epochs * per_epoch, steps_per_epoch=per_epoch, validate_every=epochs)
        labels = torch.from_numpy(self.labels).to(task.device)
        for step in range(plan.total_steps if steps is None else steps):
            epoch, place = divmod(step, per_epoch)
            random = np.random.default_rng((task.seed, epoch))
            order, views = random.permutation(rows), random.integers(0, len(self.maps.views), len(rows))
            part = slice(place * recipe.batch_size, (place + 1) * recipe.batch_size)
            for group in optimizer.param_groups:
                group["lr"] = group["share"] * recipe.learning_rate * plan.rate(step)
            logits = computing.answer(self.maps.inputs(order[part], views[part]), self.maps.start)
            loss = nn.functional.cross_entropy(logits, labels[order[part]], label_smoothing=recipe.label_smoothing)
            if not torch.isfinite(loss):
                rate = recipe.learning_rate
                raise Diverged(trial=task.trial, loss=float(loss.detach()), step=step, learning_rate=rate, retries=0)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
            optimizer.step()
            self.step_done()
        return network

    @torch.inference_mode()
    def logits(self, network: Network, rows: Indices) -> Floats:
        """[rows, categories], of the images as they are served."""
        out = [np.empty((0, network.head.out_features), np.float32)]
        for at in range(0, len(rows), EVALUATED):
            some = rows[at : at + EVALUATED]
            out.append(network.answer(self.maps.inputs(some, np.zeros_like(some)), self.maps.start).cpu().numpy())
        return np.concatenate(out)

    def _start(self, head: LinearHead) -> tuple[Network, torch.optim.AdamW]:
        """In evaluation mode throughout: statistics of so few images are worse than those of the pretraining."""
        network = copy.deepcopy(self.network).eval()
        begin_with(network, head)
        network.requires_grad_(False)
        parts = (network.head, *network.stages()[:LAST_STAGES])
        shares = (1.0, *(SLOWER**above for above in range(LAST_STAGES)))
        groups = [
            {"params": list(part.requires_grad_(True).parameters()), "share": share}
            for part, share in zip(parts, shares, strict=True)
        ]
        recipe = self.task.recipe
        return network, torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
