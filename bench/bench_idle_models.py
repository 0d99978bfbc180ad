"""Models that wait in memory: what each adds to the predictor, against the same networks loaded plainly.

`python bench/bench_idle_models.py [--models N] [--network NAME --size SIZE]`. Each way has a process of its own, which
first loads one model, so that libraries do not count, and then the others. Memory is what the process holds alone
(USS), after each model has answered once or, loaded by torch alone, not at all.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from bench import support
from bench.predictor_process import classifier, first_answer, photo, running, store
from bench.served import Served

REST_SECONDS = 20.0
Plain = Literal["torch.load", "ONNX Runtime"]


def main() -> None:
    """Prints the memory that each further model adds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--network", default="mobilenet_v2")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--plain", choices=get_args(Plain), help=argparse.SUPPRESS)
    parser.add_argument("--bundle", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plain:
        print(plainly(given.plain, given.network, given.bundle, given.models))
        return
    print(f"{support.machine()}; {given.network} at {given.size}, {given.models} models", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bundle = store(folder / "store", "models/m0", classifier(given.network, given.size), graphs=folder / "graphs")
        size = sum(path.stat().st_size for path in bundle.iterdir()) / 2**20
        print(f"a bundle: {size:.1f} MiB", flush=True)
        plain = {way: in_a_process(way, given.network, bundle, given.models) for way in get_args(Plain)}
        ready, at_rest = in_the_predictor(folder / "store", bundle, given.models)
    print(f"predictor: {ready:.2f} MiB a model that was just used, {at_rest:.2f} MiB one at rest")
    for way, added in plain.items():
        shares = f"{ready / added:.2f} of it, {at_rest / added:.3f} at rest"
        print(f"{way}: {added:.2f} MiB a model; the predictor takes {shares}")


def in_a_process(way: Plain, network: str, bundle: Path, models: int) -> float:
    """MiB for each further model."""
    command = [sys.executable, __file__, "--plain", way, "--network", network, "--bundle", str(bundle)]
    return float(subprocess.run([*command, "--models", str(models)], check=True, stdout=subprocess.PIPE).stdout)


def plainly(way: Plain, network: str, bundle: Path, models: int) -> float:
    """The same in this process, as one would write it."""
    make = with_torch(network) if way == "torch.load" else with_onnxruntime(bundle)
    kept = [make()]
    before = own_mib(os.getpid())
    kept += [make() for _ in range(models)]
    return (own_mib(os.getpid()) - before) / models


def with_torch(network: str) -> Callable[[], object]:
    """Builds the network and loads its weights from a file of torch."""
    import torch  # noqa: PLC0415 - only where it is measured

    from services.vision.backbones import build  # noqa: PLC0415 - imports it too

    file = tempfile.NamedTemporaryFile(suffix=".pt")  # noqa: SIM115 - as long as the process
    torch.save(build(network, 10, seed=0).state_dict(), file.name)

    def make() -> object:
        with torch.device("meta"):
            model = build(network, 10, seed=0)
        model.load_state_dict(torch.load(file.name, weights_only=True), assign=True)
        return file, model.eval()

    return make


def with_onnxruntime(bundle: Path) -> Callable[[], object]:
    """A session of ONNX Runtime with its defaults, which has answered once."""
    import numpy as np  # noqa: PLC0415 - only where it is measured
    import onnxruntime  # noqa: PLC0415 - only where it is measured

    def make() -> object:
        session = onnxruntime.InferenceSession(bundle / "network-0.onnx", providers=["CPUExecutionProvider"])
        session.run(["features"], {"pixels": np.zeros((1, 224, 224, 3), np.uint8)})
        return session

    return make


def in_the_predictor(folder: Path, bundle: Path, models: int) -> tuple[float, float]:
    """MiB for each further model of the real process: after its prediction, and once all but the first rest.

    Also prints how long a prediction takes that finds its model at rest.
    """
    for number in range(1, models + 1):
        copy = folder / f"models/m{number}"
        copy.mkdir()
        for path in bundle.iterdir():
            os.link(path, copy / path.name)
    image = photo(256, 256)
    with running(folder, SIGHTLINE_MODEL_REST_SECONDS=str(REST_SECONDS)) as predictor:
        first_answer(predictor, "models/m0", image)
        before = held(predictor)
        for number in range(1, models + 1):
            first_answer(predictor, f"models/m{number}", image)
        ready = held(predictor) - before
        until = time.monotonic() + 2 * REST_SECONDS
        while time.monotonic() < until:
            first_answer(predictor, "models/m0", image)
            time.sleep(0.5)
        at_rest = held(predictor) - before
        times = {name: seconds(predictor, name, image) for name in ("models/m1", "models/m1 again", "models/m0")}
        print(", ".join(f"{name}: {1000 * took:.0f} ms" for name, took in times.items()), flush=True)
    return ready / models, at_rest / models


def seconds(predictor: Served, name: str, image: bytes) -> float:
    """Of a prediction."""
    start = time.perf_counter()
    first_answer(predictor, name.split(maxsplit=1)[0], image)
    return time.perf_counter() - start


def held(predictor: Served) -> float:
    """MiB of all its processes."""
    return sum(map(own_mib, predictor.pids))


def own_mib(pid: int) -> float:
    """What the process holds and shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


if __name__ == "__main__":
    main()
