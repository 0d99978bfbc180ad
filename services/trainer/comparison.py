"""How much better one trial is than another, on the images that both predicted and neither had trained on."""

from services.trainer.predictions import AnyPredictions, Predictions


def paired_gain(old: AnyPredictions, new: AnyPredictions) -> tuple[float, float, int]:
    """(gain, its standard error, images) of `new` over `old` on the images that both predicted."""
    match old, new:
        case Predictions(), Predictions():
            return _accuracy_gain(old, new)
        case _:
            raise ValueError("a classifier's predictions cannot be compared with a detector's")


def _accuracy_gain(old: Predictions, new: Predictions) -> tuple[float, float, int]:
    """(gain in top-1 accuracy, its standard error, images) of `new` over `old` on the images that both predicted.

    Pairing removes what the images' own difficulty adds to the noise. Half an image is added to each cell of the two
    by two table (Agresti and Min 2005), so that a handful of images cannot seem certain. Without a common image it is
    (0, inf, 0).
    """
    before, after = old.correct_by_id(), new.correct_by_id()
    common = [id_ for id_ in after if id_ in before]
    if not common:
        return 0.0, float("inf"), 0
    won = sum(after[id_] and not before[id_] for id_ in common)
    lost = sum(before[id_] and not after[id_] for id_ in common)
    total = len(common) + 2
    variance = (won + lost + 1) - (won - lost) ** 2 / total
    return (won - lost) / total, variance**0.5 / total, len(common)
