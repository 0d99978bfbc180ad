"""The task of a probe: samples of the dataset, large enough to measure and small enough to take seconds."""

import asyncio
from datetime import timedelta
from pathlib import Path

from services.kit.errors import BlobNotFound, DatasetChanged, DatasetNotFound
from services.trainer.estimate import Estimate
from services.trainer.messages import ProbeTask
from services.trainer.settings import TrainerSettings
from services.trainer.worker.bundle_folders import BundleFolders
from services.trainer.worker.sample import Contents, choose, read_contents, write_sample
from services.trainer.worker.workspace import Workspace
from services.vision.card import ModelKind

EACH = 5  # images of a category
MOST = 300  # images for the first recipe, which is cheap
SMALL = 64  # images up to which one sample does for all recipes, and a classifier's dataset is sampled whole
TIMED = 40  # images of another sample for the others, if there are more; also of a detector's


async def probe_task(
    estimate: Estimate,
    workspace: Workspace,
    bundles: BundleFolders,
    settings: TrainerSettings,
    scratch: Path,
    allowance: timedelta,
) -> ProbeTask:
    """Fetches the samples and the base model.

    DatasetNotFound or ModelNotFound if one was deleted, DatasetChanged or BundleUnusable if one was changed.
    """
    model = estimate.model
    assert model.training is not None, "an estimate has its snapshot"
    indexes = await workspace.snapshot(model.training, packs=False)
    contents = await asyncio.to_thread(read_contents, indexes)
    seed, detects = model.hyperparameters.seed, model.model_kind is ModelKind.GENERIC_DETECTOR
    whole = len(contents.rows) <= SMALL
    each, most = (TIMED, TIMED) if detects else (SMALL if whole else EACH, MOST)
    rows = await asyncio.to_thread(choose, contents.rows, each, most, seed)
    few = rows if len(rows) <= SMALL else await asyncio.to_thread(choose, contents.rows, EACH, TIMED, seed)
    try:
        large = await write_sample(workspace.blobs, contents.manifest, rows, scratch / "sample")
        small = large
        if few is not rows:
            small = await write_sample(workspace.blobs, contents.manifest, few, scratch / "small")
    except BlobNotFound:
        raise DatasetNotFound(name=model.training_dataset) from None
    except ValueError as fault:
        raise DatasetChanged(dataset=model.training_dataset, file=str(fault)) from fault
    weights = settings.weights_dir
    base = await bundles.base(model.base) if model.base else None
    return ProbeTask(
        estimate=estimate.name,
        dataset=model.training_dataset,
        directory=str(large),
        small_directory=str(small),
        index_directory=str(indexes),
        recipes=estimate.recipes,
        images_per_category=None if detects else _per_category(contents, len(rows)),
        output_directory=str(scratch / "output"),
        cache_directory=str(await workspace.cache()),
        graphs_directory=str(settings.graphs),
        base_directory=str(base) if base else None,
        stored_blocks=tuple(await workspace.features(model.training).names()),
        weights_directory=str(weights) if weights else None,
        installed_weights=settings.installed_weights,
        download_weights=settings.download_weights,
        allowance=allowance,
        seed=seed,
        threads=settings.threads,
    )


def _per_category(contents: Contents, sampled: int) -> float | None:
    """Images of a category on average; None if the sample lacks some, as fewer are easier to tell apart."""
    categories = len(contents.manifest.categories)
    return None if sampled < 2 * categories else len(contents.rows) / categories
