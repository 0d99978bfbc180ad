"""Classifiers for tests."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.vision.backbones import Network
from services.vision.card import ModelCard
from services.vision.classifier import Classifier, ClassifierNetwork


def classifier_of(card: ModelCard, network: Network) -> Classifier:
    """One network with its own head; the network must not be used afterwards."""
    return Classifier(card, ClassifierNetwork(card.backbones, [network], network.head))


def predict(classifier: Classifier, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Probabilities [images, categories] of upright RGB pixels."""
    rules = [backbone.rule for backbone in classifier.card.backbones]
    prepared = [classifier.arrange({rule.at_least: image for rule in rules}) for image in images]
    return classifier.predict_prepared(prepared)
