"""A program for the environment with tritonclient: what Triton's own client gets from a predictor, as JSON.

`python triton_calls.py ADDRESS IMAGE...`
"""

import json
import queue
import sys
from functools import partial
from pathlib import Path

import numpy as np
from tritonclient import grpc as triton  # pyright: ignore[reportMissingImports] - in an environment of its own
from tritonclient.grpc import service_pb2  # pyright: ignore[reportMissingImports] - as above, elsewhere
from tritonclient.utils import InferenceServerException  # pyright: ignore[reportMissingImports] - as above, elsewhere


def image_input(*images: bytes) -> triton.InferInput:
    tensor = triton.InferInput("image", [len(images)], "BYTES")
    tensor.set_data_from_numpy(np.array(images, object))
    return tensor


def outputs_of(result: triton.InferResult) -> dict[str, object]:
    found = {}
    for output in result.get_response().outputs:
        values = result.as_numpy(output.name)
        if output.datatype == "BYTES":
            values = np.array([one.decode() for one in values.flat], object).reshape(values.shape)
        found[output.name] = values.tolist()
    return found


def error_of(call) -> list[str]:
    try:
        call()
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return []


def messages() -> dict[str, dict[str, list[int]]]:
    """The number and type of each field that tritonclient knows."""
    found: dict[str, dict[str, list[int]]] = {}
    waiting = list(service_pb2.DESCRIPTOR.message_types_by_name.values())
    while waiting:
        message = waiting.pop()
        found[message.full_name] = {field.name: [field.number, field.type] for field in message.fields}
        waiting += message.nested_types
    return found


def streamed(client: triton.InferenceServerClient, *sent: triton.InferInput) -> list[object]:
    """The ids of the answers of a stream, and the messages of errors, in the order in which they come."""
    answers: queue.Queue[tuple[triton.InferResult | None, Exception | None]] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for number, tensor in enumerate(sent):
        client.async_stream_infer("m", [tensor], request_id=str(number))
    found: list[object] = []
    for _ in sent:
        result, error = answers.get(timeout=20)
        found.append(result.get_response().id if result else str(error))
    client.stop_stream()
    return found


def main() -> None:
    address, *paths = sys.argv[1:]
    images = [Path(path).read_bytes() for path in paths]
    client = triton.InferenceServerClient(address)
    infer = partial(client.infer, "m", [image_input(images[0])])
    server, model = client.get_server_metadata(), client.get_model_metadata("m")
    found = {
        "messages": messages(),
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "server": [server.name, list(server.extensions)],
        "models": [client.is_model_ready(name) for name in ("m", "nobodys")],
        "platform": model.platform,
        "inputs": [[one.name, one.datatype, list(one.shape)] for one in model.inputs],
        "outputs": [one.name for one in model.outputs],
        "index": [[one.name, one.state] for one in client.get_model_repository_index().models],
        "id": infer(request_id="x1").get_response().id,
        "one": outputs_of(infer()),
        "all": outputs_of(client.infer("m", [image_input(*images)])),
        "scores": outputs_of(infer(outputs=[triton.InferRequestedOutput("scores")], parameters={"max_results": 2})),
        "none": outputs_of(infer(parameters={"score_threshold": 1.0})),
        "unknown": error_of(lambda: client.infer("nobodys", [image_input(images[0])])),
        "unreadable": error_of(lambda: client.infer("m", [image_input(images[0], b"no image" * 10)])),
        "stream": streamed(client, image_input(images[0]), image_input(b"no image" * 10), image_input(*images)),
        "load": error_of(lambda: client.load_model("m")),
        "unload": [error_of(lambda: client.unload_model("m")), error_of(lambda: client.unload_model("m"))],
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
