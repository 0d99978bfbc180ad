"""What must hold of a model's ledger, of the traces that training children left, and of the store."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from minio import Minio

from sightline.v1.model_pb2 import Model
from tests.chaos.campaign.history import Violation
from tests.chaos.observer import line, seconds

SLACK_SECONDS = 0.3  # of a charge above what the trace says: until the child's message is read
BUCKET = "sightline"


def check_ledger(model: Model) -> None:
    """Violation unless every entry is there once, and the charged ones add up to a cost within the budget."""
    twice = [entry for entry, count in Counter(line(entry) for entry in model.ledger).items() if count > 1]
    if twice:
        raise Violation(f"{model.name}: recorded twice: {twice}")
    charged = sum(seconds(entry) for entry in model.ledger if entry.charged)
    cost = model.training_cost.ToTimedelta().total_seconds()
    budget = model.training_parameters.time_budget.ToTimedelta().total_seconds()
    if abs(charged - cost) > 0.001 or cost > budget:
        raise Violation(f"{model.name}: charged {charged} s, cost {cost} s, budget {budget} s")


def traces(folder: Path) -> list[dict[str, Any]]:
    """Every line that a child has written, with the file that it is in; a line cut off by a kill is left out."""
    return [found for path in sorted(folder.glob("*.jsonl")) for found in _lines(path)]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for text in path.read_text().splitlines():
        try:
            yield json.loads(text) | {"file": path.name}
        except ValueError:
            return


def check_traces(found: list[dict[str, Any]], models: Iterable[Model]) -> list[str]:
    """What is wrong: corrupt input, results that differ between attempts, charges for time that no child has spent."""
    wrong = [f"{one['name']}: {one['problem']}" for one in found if "problem" in one]
    data, results, spent = (
        defaultdict[str, set[str]](set),
        defaultdict[str, set[str]](set),
        dict[tuple[str, str], float](),
    )
    for one in found:
        name, model = one["name"], one["name"].partition("/trials/")[0].partition("/evaluations/")[0]
        spent[name, one["file"]] = max(spent.get((name, one["file"]), 0.0), one["seconds"])
        if "data" in one:
            data[model].add(one["data"])
        if "result" in one:
            results[name].add(one["result"])
    wrong += [f"{model}: its children saw different data" for model, seen in data.items() if len(seen) > 1]
    wrong += [f"{name}: its attempts ended with different results" for name, seen in results.items() if len(seen) > 1]
    known = {digest for seen in results.values() for digest in seen}
    for model in models:
        if model.bundle_digest and model.bundle_digest not in known:
            wrong.append(f"{model.name} serves {model.bundle_digest}, which no child has made")
        wrong += _overcharged(model, spent)
    return wrong


def _overcharged(model: Model, spent: Mapping[tuple[str, str], float]) -> list[str]:
    charged, worked, children = defaultdict[str, float](float), defaultdict[str, float](float), Counter[str]()
    for entry in model.ledger:
        if entry.charged:
            charged[entry.trial] += seconds(entry)
    for (name, _), most in spent.items():
        worked[name] += most
        children[name] += 1
    return [
        f"{name} is charged {paid} s; its children worked for {worked[name]} s"
        for name, paid in charged.items()
        if paid > worked[name] + SLACK_SECONDS * children[name]
    ]


def stored(client: Minio, *prefixes: str) -> list[str]:
    """The keys under the prefixes."""
    return [
        str(found.object_name) for prefix in prefixes for found in client.list_objects(BUCKET, prefix, recursive=True)
    ]


def check_bundle(client: Minio, model: Model) -> list[str]:
    """What is wrong with the files of the bundle that a model serves."""
    prefix = model.bundle_uri.removeprefix(f"s3://{BUCKET}/").rstrip("/") + "/"
    listed = _read(client, f"{prefix}digests.json")
    if f"sha256:{hashlib.sha256(listed).hexdigest()}" != model.bundle_digest:
        return [f"{model.name}: digests.json is not the one of its record"]
    return [
        f"{model.name}: {name} in the store is not what was made"
        for name, digest in json.loads(listed).items()
        if hashlib.sha256(_read(client, prefix + name)).hexdigest() != digest
    ]


def _read(client: Minio, key: str) -> bytes:
    response = client.get_object(BUCKET, key)
    try:
        return response.read()
    finally:
        response.close()
        response.release_conn()
