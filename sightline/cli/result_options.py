"""Which results of a prediction to return: options of `predict` and `batch create`."""

from typing import Annotated

import typer

Threshold = Annotated[
    float | None, typer.Option(min=0, max=1, help="Leave out results with a lower confidence, 0 to 1.")
]
SuggestedThresholds = Annotated[
    bool,
    typer.Option(
        "--suggested-thresholds",
        help="Leave out results below the model's suggested threshold for their category, as detectors do by default.",
    ),
]
Top = Annotated[int | None, typer.Option(min=1, max=1000, help="The most results for each image, 100 by default.")]
