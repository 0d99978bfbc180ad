"""What the peers do with an image: exactly what the predictor does."""

import os
from collections.abc import Callable
from pathlib import Path

from services.vision import graph_models


def answerer() -> Callable[[bytes], list[float]]:
    """Loads the classifier in the folder BUNDLE; the result answers an image with the scores of all categories."""
    model = graph_models.load(Path(os.environ["BUNDLE"]))
    assert isinstance(model, graph_models.GraphClassifier)

    def answer(image: bytes) -> list[float]:
        return model.predict_prepared([model.prepare(image)])[0].tolist()

    return answer
