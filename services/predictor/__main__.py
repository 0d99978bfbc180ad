"""Runs one predictor replica: `python -m services.predictor`; `--settings` prints its settings instead."""

import asyncio
import sys
import tempfile
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import torch

from services.infra import observe, processes
from services.infra.server import Server, Service
from services.infra.store import open_blobs
from services.kit import settings as kit_settings
from services.kit.clock import SystemClock
from services.predictor.app import Limits, Predictor
from services.predictor.batching import Batcher
from services.predictor.bundles import BundleSource
from services.predictor.cache import ModelCache
from services.predictor.clients import TrainerModels
from services.predictor.lookup import ModelLookup
from services.predictor.rpc import PredictionServicer
from services.predictor.settings import PredictorSettings
from services.vision import bundle
from sightline.v1 import prediction_service_pb2, prediction_service_pb2_grpc
