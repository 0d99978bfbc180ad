"""One fit of AutoGluon MultiModal, run by its own Python: reads a JSON job from stdin, prints a JSON answer last.

`bench_autogluon.py` starts it. It imports nothing of this project.
"""

# pyright: basic, reportMissingImports=false
# Its packages are in another environment.
import itertools
import json
import sys
import time

import pandas as pd
import torch
from autogluon.multimodal import MultiModalPredictor
from autogluon.multimodal.optim.lit_module import LitModule


def main() -> None:
    """Fits within the budget and predicts the test images."""
    job = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])
    began: list[tuple[float, int]] = []
    real = LitModule.training_step

    def noted(self: LitModule, batch: dict[str, torch.Tensor], *rest: object) -> object:
        sizes = [value.shape[0] for value in batch.values() if hasattr(value, "shape") and value.ndim]
        began.append((time.perf_counter(), max(sizes)))
        return real(self, batch, *rest)

    LitModule.training_step = noted
    predictor = MultiModalPredictor(label="label", path=job["output"], problem_type="multiclass", verbosity=1)
    predictor.fit(
        pd.DataFrame(job["train"]),
        time_limit=job["seconds"],
        seed=job["seed"],
        hyperparameters={
            "model.names": ["timm_image"],
            "model.timm_image.checkpoint_name": job["checkpoint"],
            "env.per_gpu_batch_size": job["batch_size"],
            "env.batch_size": job["batch_size"],
            "env.num_workers": 0,
            "env.num_gpus": 0,
        },
    )
    test = pd.DataFrame(job["test"])
    found = predictor.predict(test[["image"]])
    gaps = sorted(after[0] - before[0] for before, after in itertools.pairwise(began))
    answer = {
        "top1": float((found.to_numpy() == test["label"].to_numpy()).mean()),
        "images_per_second": job["batch_size"] / gaps[len(gaps) // 2] if gaps else 0.0,
        "steps": len(began),
    }
    print("\n" + json.dumps(answer))


if __name__ == "__main__":
    main()
