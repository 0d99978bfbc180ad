"""Classifiers for tests."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.vision.backbones import Network
from services.vision.card import ModelCard
from services.vision.classifier import Classifier, ClassifierNetwork
from services.vision.decode import Decoded, ImageInfo


def classifier_of(card: ModelCard, network: Network) -> Classifier:
    """One network with its own head; the network must not be used afterwards."""
    return Classifier(card, ClassifierNetwork(card.backbones, [network], network.head))


def predict(classifier: Classifier, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Probabilities [images, categories] of upright RGB pixels."""
    return classifier.predict_prepared([classifier.arrange(_decoded(image, classifier.sizes)) for image in images])


def _decoded(image: NDArray[np.uint8], sizes: Sequence[int]) -> Decoded:
    height, width = image.shape[:2]
    info = ImageInfo("PNG", width, height, 1, width, height, animated=False)
    return Decoded(info, dict.fromkeys(sizes, image))
