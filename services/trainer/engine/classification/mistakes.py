"""The images that a classifier got most confidently wrong."""

import numpy as np

from services.trainer.engine.classification.logistic import log_losses
from services.trainer.engine.classification.measure import softmax
from services.trainer.engine.data import Floats, Images, Indices
from services.trainer.insight import MAX_MISTAKES, Mistake


def worst_mistakes(images: Images, rows: Indices, logits: Floats) -> tuple[Mistake, ...]:
    """Of these images, with calibrated logits [rows, categories]: the wrong ones with the highest log loss."""
    labels = images.labels[rows]
    predicted, losses = logits.argmax(axis=1), log_losses(logits, labels)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-losses[wrong], kind="stable")][:MAX_MISTAKES]
    probabilities = softmax(logits[worst])
    return tuple(
        Mistake(
            image_id=images.samples[rows[row]].record.image_id,
            file_name=images.samples[rows[row]].record.file_name,
            true_category=images.categories[labels[row]],
            predicted_category=images.categories[predicted[row]],
            probability=float(shares[predicted[row]]),
            log_loss=float(losses[row]),
        )
        for row, shares in zip(worst.tolist(), probabilities, strict=True)
    )
