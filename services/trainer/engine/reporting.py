"""What the results of both kinds share: warnings about the images, the card, and the files."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from services.trainer.engine.data import Images, Indices
from services.trainer.performance import Performance
from services.trainer.predictions import AnyPredictions, write_predictions
from services.vision import bundle
from services.vision.card import CardBackbone, CardCategory, ModelCard, ModelKind
from services.vision.classifier import Classifier
from services.vision.detector import Detector
from sightline.plurals import counted

FEW_IMAGES = 10  # of a category
BUNDLE, PREDICTIONS = "bundle", "predictions.msgpack"  # in the output directory


def image_warnings(images: Images, image_counts: Indices) -> tuple[str, ...]:
    """About unreadable images and categories with few images; `image_counts` is per category."""
    warnings: list[str] = []
    if images.unreadable:
        files = ", ".join(images.unreadable_files()[:5])
        left_out = counted(len(images.unreadable), "image was", "images were")
        warnings.append(f"{left_out} left out because they cannot be read, among them {files}.")
    few = [name for name, count in zip(images.categories, image_counts, strict=True) if count < FEW_IMAGES]
    if few:
        warnings.append(f"Fewer than {FEW_IMAGES} images: {', '.join(few[:10])}. More of them would help most.")
    return tuple(warnings)


def bare_card(kind: ModelKind, images: Images, backbones: tuple[CardBackbone, ...]) -> ModelCard:
    """A card without measurements, as prediction needs it."""
    return ModelCard(
        kind=kind,
        categories=tuple(CardCategory(category.id, category.name) for category in images.manifest.categories),
        backbones=backbones,
        data_digest=images.manifest.digest,
        created=datetime.now(UTC),
    )


def measured_card(card: ModelCard, performance: Performance, warnings: tuple[str, ...], seconds: float) -> ModelCard:
    """The card with what was measured; a performance of no images has no source."""
    return replace(
        card,
        metrics=performance.metrics(),
        metrics_source=performance.source.value if performance.image_count else "",
        ledger={"seconds": seconds},
        warnings=warnings,
    )


def write_files(
    directory: Path, model: Classifier | Detector, predictions: AnyPredictions, traced: str
) -> tuple[str, str]:
    """Writes bundle and predictions, creating the folder if needed; returns both paths, as a Result names them."""
    directory.mkdir(parents=True, exist_ok=True)
    bundle.write(directory / BUNDLE, model, Path(traced) if traced else None)
    write_predictions(directory / PREDICTIONS, predictions)
    return str(directory / BUNDLE), str(directory / PREDICTIONS)
