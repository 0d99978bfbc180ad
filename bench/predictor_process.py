"""A predictor process for benchmarks: the real one, with a folder as store and this process as its trainer."""

import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Literal

import grpc
import numpy as np
import torch
from PIL import Image

from bench.served import Served
from services.vision import bundle, graph_tracing
from services.vision.backbones import build
from services.vision.card import CardBackbone, CardCategory, InputRule, ModelCard, ModelKind, WeightsSource
from services.vision.classifier import Classifier, ClassifierNetwork
from sightline.local.ports import free_ports
from sightline.v1 import model_pb2, model_service_pb2
from sightline.v1 import prediction_service_pb2 as pb
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub


def trainer() -> grpc.GenericRpcHandler:
    """Knows every model: its bundle is in the store under its name."""

    def get_model(request: model_service_pb2.GetModelRequest, _: grpc.ServicerContext) -> model_pb2.Model:
        uri = f"s3://sightline/{request.name}/"
        state = model_pb2.Model.SUCCEEDED
        return model_pb2.Model(name=request.name, state=state, model_version="1", bundle_uri=uri)

    handler = grpc.unary_unary_rpc_method_handler(
        get_model, model_service_pb2.GetModelRequest.FromString, model_pb2.Model.SerializeToString
    )
    return grpc.method_handlers_generic_handler("sightline.v1.ModelService", {"GetModel": handler})


def classifier(
    network: str, size: int, categories: int = 10, *, fit: Literal["crop", "stretch"] = "stretch"
) -> Classifier:
    """A classifier with random weights."""
    torch.manual_seed(0)
    rule = InputRule(size=size, resize=size, fit=fit)
    card = ModelCard(
        kind=ModelKind.GENERIC_CLASSIFIER,
        categories=tuple(CardCategory(index, f"c{index}") for index in range(categories)),
        backbones=(CardBackbone(network, rule, WeightsSource.RANDOM),),
        created=datetime.now(UTC),
    )
    trunk = build(network, categories, seed=0)
    return Classifier(card, ClassifierNetwork(card.backbones, [trunk], trunk.head))


def store(folder: Path, name: str, model: Classifier, *, graphs: Path | None) -> Path:
    """Puts the model's bundle into a store; with `graphs`, a folder of traced networks, with its graphs."""
    if graphs:
        for backbone in model.card.backbones:
            graph_tracing.add(backbone.name, graphs)
    directory = folder / name
    bundle.write(directory, model, graphs)
    return directory


def photo(width: int = 640, height: int = 480) -> bytes:
    """A JPEG with as much detail as photographs have."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (height // 8, width // 8, 3), np.uint8))
    file = BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


@contextmanager
def running(store_folder: Path, log: Path = Path(os.devnull), **settings: str) -> Generator[Served]:
    """A predictor on this store, which writes its log to a file."""
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((trainer(),))
    trainer_port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    (port,) = free_ports(1)
    environment = {
        **os.environ,
        "SIGHTLINE_INSECURE": "true",
        "SIGHTLINE_PORT": str(port),
        "SIGHTLINE_METRICS_PORT": "0",
        "SIGHTLINE_TRAINER_ADDRESS": f"127.0.0.1:{trainer_port}",
        "SIGHTLINE_STORE_DIRECTORY": str(store_folder),
        "SIGHTLINE_DRAIN_SECONDS": "0",
        "OMP_WAIT_POLICY": "passive",
        **settings,
    }
    command = [sys.executable, "-m", "services.predictor"]
    with log.open("wb") as lines:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=lines)
    try:
        yield Served(process, port)
    finally:
        process.terminate()
        process.wait(30)
        server.stop(None)


def first_answer(predictor: Served, model: str, image: bytes, within: float = 60.0) -> None:
    """Asks until there is an answer; TimeoutError."""
    deadline = time.monotonic() + within
    for channel in _channels(predictor.address):
        try:
            PredictionServiceStub(channel).AnalyzeImage(pb.AnalyzeImageRequest(model_name=model, image=image))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _channels(address: str) -> Iterator[grpc.Channel]:
    """New ones, as a channel waits after a refused connection."""
    while True:
        with grpc.insecure_channel(address) as channel:
            yield channel
