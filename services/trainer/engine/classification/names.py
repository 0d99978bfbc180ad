"""Category names as a start: a head whose penalty draws to what a contrastive network's text tower says of them.

The weights that classify images by the texts of the categories alone (zero-shot, Radford et al. 2021) are the centre of
the penalty. How far they reach is chosen out of fold, and names that tell nothing are left out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from services.kit.errors import InvalidRequest
from services.trainer.engine.classification import logistic
from services.trainer.engine.classification.heads import LinearHead, fit_head, normalised
from services.trainer.engine.classification.measure import calibrated_across, fit_temperature
from services.trainer.engine.data import Floats, Indices
from services.trainer.engine.pretrained import LoadedBackbone
from services.trainer.messages import TrainTask
from services.trainer.name_use import NameEffect, NameUse
from services.vision.packs import PackUnusable
from services.vision.text_tower import TextTooLong, TextTower, load_text_tower

SCALES = (0.25, 0.5, 1.0, 2.0)  # of the network's own logits
MARGIN = 1.5  # standard errors by which names must lower the log loss
MOST_IMAGES = 100  # of a category, on average: with more, names add nothing


@dataclass(frozen=True, slots=True)
class Texts:
    """What a network's text tower says of the categories."""

    projection: Floats  # [embedding, features], of the images
    embedded: Floats  # [categories, embedding], of unit length
    scale: float  # of cosines, to be logits

    def weights(self, features: Floats) -> Floats:
        """[categories, features]: the logits that they give normalised features, up to a factor per image.

        That factor, which changes no decision, is the length of the projected features. Its mean takes its place.
        """
        lengths = np.linalg.norm(normalised(features) @ self.projection.T, axis=1)
        return (self.scale / max(float(lengths.mean()), 1e-12) * self.embedded @ self.projection).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Names:
    """The texts of each backbone that has a text tower, in the order of the backbones, and which networks these are."""

    texts: tuple[Texts | None, ...] = ()
    network: str = ""
    note: str = ""  # why names are not used although there is a text tower

    def of_first(self) -> "Names":
        """Those of the first backbone alone."""
        return replace(self, texts=self.texts[:1])

    def start(self, blocks: Sequence[Floats], middle: Sequence[bool]) -> Floats | None:
        """Weights [categories, width] for the blocks side by side: the mean of all backbones with texts; None if none.

        `middle` is as for `fit_head`: every other block is of a backbone's last stage.
        """
        order = iter(self.texts or [None] * len(blocks))
        found = [None if of_middle else next(order) for of_middle in middle or [False] * len(blocks)]
        given = [texts for texts in found if texts is not None]
        if not given:
            return None
        parts: list[Floats] = []
        for texts, block in zip(found, blocks, strict=True):
            part = texts.weights(block) if texts else np.zeros((len(given[0].embedded), block.shape[1]), np.float32)
            parts.append(part / np.float32(len(given)))
        return np.concatenate(parts, axis=1)


NO_NAMES = Names()


def spoken(name: str) -> str:
    """A category's name as in a sentence: `GrannySmith_apple` becomes `Granny Smith apple`."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"[\W_]+", " ", name)).split()
    return " ".join(words) or name


def read_names(task: TrainTask, backbones: Sequence[LoadedBackbone], categories: Sequence[str]) -> Names:
    """Embeds the names with the text tower of each network that came with one, if the recipe wants them.

    Raises InvalidRequest for a text tower that is broken. Names that are too long for it are not read, with a note.
    """
    if not task.recipe.names:
        return NO_NAMES
    found: list[Texts | None] = []
    network = note = ""
    for backbone in backbones:
        file, pack = backbone.weights.text_file, backbone.weights.pack
        if backbone.shares is not None:
            found.append(found[backbone.shares])
        elif file is None or pack is None or pack.text is None:
            found.append(None)
        else:
            try:
                found.append(_texts(load_text_tower(file, pack.text), categories))
                network = network or backbone.name
            except TextTooLong as fault:
                found.append(None)
                note = f"Training did not start from the category names: {fault} by {backbone.name}. Shorten the name."
            except PackUnusable as fault:
                raise InvalidRequest(field="weights", problem=str(fault)) from fault
    return Names(tuple(found), network, note)


def _texts(tower: TextTower, categories: Sequence[str]) -> Texts:
    """A category's embedding is the mean over all prompts, of unit length again."""
    prompts = tower.spec.prompts
    texts = [prompt.replace("{}", spoken(name)) for name in categories for prompt in prompts]
    embedded = tower.embed(texts).reshape(len(categories), len(prompts), -1).mean(dim=1)
    return Texts(tower.image_projection.numpy(), normalised(embedded.numpy()), tower.spec.logit_scale)


def fit_named_head(
    views: Sequence[Sequence[Floats]],
    labels: Indices,
    fold: Indices,
    folds: int,
    categories: int,
    middle: Sequence[bool],
    names: Names,
) -> tuple[LinearHead, NameUse]:
    """As `fit_head`, starting from the names if that lowers the log loss out of fold by more than the noise.

    Each fold's predictions are of the head that the other folds choose, so that the choice flatters none.
    """
    plain = fit_head(views, labels, fold, folds, categories, middle)
    start = names.start(views[0], middle)
    if start is None or len(labels) > MOST_IMAGES * categories:
        return plain, NameUse(network=names.network)
    heads = [plain]
    heads += [fit_head(views, labels, fold, folds, categories, middle, scale * start) for scale in SCALES]
    heads.append(_alone(start, views[0], labels))
    solved = np.logical_and.reduce([head.solved for head in heads])
    losses = np.full((len(heads), len(labels)), np.nan)
    for row, head in zip(losses, heads, strict=True):
        row[solved] = _losses(head.out_of_fold[solved], labels[solved], fold[solved])
    out_of_fold = plain.out_of_fold.copy()
    for number in np.unique(fold[solved]):
        out_of_fold[fold == number] = heads[_best(losses[:, solved & (fold != number)])].out_of_fold[fold == number]
    best = _best(losses[:, solved])
    effects = (NameEffect.NONE, *(NameEffect.CENTRE for _ in SCALES), NameEffect.ALONE)
    use = NameUse(network=names.network, effect=effects[best], scale=(0.0, *SCALES, 1.0)[best])
    return replace(heads[best], out_of_fold=out_of_fold, solved=solved), use


def _best(losses: NDArray[np.float64]) -> int:
    """The row with the lowest mean; the first unless that is lower by more than the noise."""
    best = int(losses.mean(axis=1).argmin())
    gain = losses[0] - losses[best]
    error = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else np.inf
    return best if gain.mean() > MARGIN * error else 0


def _losses(logits: Floats, labels: Indices, fold: Indices) -> NDArray[np.float64]:
    return logistic.log_losses(calibrated_across(logits, labels, fold), labels)


def _alone(start: Floats, blocks: Sequence[Floats], labels: Indices) -> LinearHead:
    """The names without any fit but the temperature's."""
    logits = LinearHead.of(start).logits(blocks)
    temperature = np.float32(fit_temperature(logits, labels))
    return replace(
        LinearHead.of(start / temperature),
        out_of_fold=logits / temperature,
        solved=np.ones(len(labels), np.bool_),
    )
