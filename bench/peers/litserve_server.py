"""The same bundle behind LitServe: `python litserve_server.py --port PORT`; the environment has BUNDLE and WORKERS."""

# pyright: basic, reportMissingImports=false
# LitServe has an environment of its own.

import argparse
import base64
import os

import litserve

from bench.peers.answering import answerer


class Prediction(litserve.LitAPI):
    """One image at a time, in a process for each core."""

    def setup(self, device: str) -> None:
        self._answer = answerer()

    def decode_request(self, request: dict[str, str]) -> bytes:
        return base64.b64decode(request["image"])

    def predict(self, x: bytes) -> list[float]:
        return self._answer(x)

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        return {"scores": output}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    server = litserve.LitServer(Prediction(), accelerator="cpu", workers_per_device=int(os.environ["WORKERS"]))
    server.run(port=parser.parse_args().port, generate_client_file=False, log_level="warning")
