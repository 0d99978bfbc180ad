"""The same bundle behind mosec: `python mosec_server.py --port PORT`; the environment has BUNDLE and WORKERS."""

# pyright: basic, reportMissingImports=false
# mosec has an environment of its own.

import json
import os

from mosec import Server, Worker

from bench.peers.answering import answerer


class Prediction(Worker):
    """One image at a time, in a process for each core."""

    def __init__(self) -> None:
        super().__init__()
        self._answer = answerer()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: list[float]) -> bytes:
        return json.dumps(data).encode()

    def forward(self, data: bytes) -> list[float]:
        return self._answer(data)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Prediction, num=int(os.environ["WORKERS"]))
    server.run()
