"""What a trial predicted for each image that it had not trained on: a small file for paired comparisons. No torch."""

from pathlib import Path

import msgspec


class Predictions(msgspec.Struct, frozen=True, kw_only=True):
    """Parallel to each other, ascending by image id. Top-1 accuracy is the mean of `correct`."""

    categories: tuple[str, ...]
    image_ids: tuple[int, ...]
    labels: tuple[int, ...]  # true category, by index
    predicted: tuple[int, ...]
    correct: tuple[bool, ...]
    log_losses: tuple[float, ...]
    probabilities: tuple[tuple[float, ...], ...] = ()  # calibrated; left empty above a million numbers

    def correct_by_id(self) -> dict[int, bool]:
        """Whether each image was recognised."""
        return dict(zip(self.image_ids, self.correct, strict=True))


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Writes the file."""
    path.write_bytes(msgspec.msgpack.encode(predictions))


def read_predictions(data: bytes) -> Predictions:
    """Inverse of `write_predictions`; msgspec.ValidationError for anything else."""
    return msgspec.msgpack.decode(data, type=Predictions)


def paired_gain(old: Predictions, new: Predictions) -> tuple[float, float, int]:
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
