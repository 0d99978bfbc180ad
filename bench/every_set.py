"""Every image set within a budget, beside one plain head; rows can be kept in a file, so that parts add up."""

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from bench import support
from bench.bench_recipes import climb, few
from bench.plain_heads import KIND, PlainHeads
from bench.snapshots import labels_of, pack, write_subset
from sightline.client.stubs import Stubs
from sightline.client.uploads import Reading, read_export
from sightline.v1 import model_pb2

# Recipes, rates or thresholds were chosen on these; the others only confirmed them.
CHOSEN_ON = frozenset(
    {"trash", "coffee_leaf", "eurosat", "omniglot_greek", "bccd", "fork_scissors", "raccoon", "kuih", "pcb_defects"}
)
FEW_BUDGETS = ((5, 120), (10, 240))  # seconds, up to so many images of a category
BUDGET_SECONDS, SECONDS_PER_IMAGE = 120, 0.8  # with all images
DETECTION_BUDGET_SECONDS = 480
DETECTION_BUDGETS = {"fork_scissors": 240, "raccoon": 300, "bccd": 600}
GOALS = {2: 0.05, 5: 0.05, 10: 0.06, 0: 0.07}  # difference from the plain head in the mean, by images per category


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One training, and the plain heads on the same images."""

    set: str
    images: int  # per category; 0: all
    seed: int
    detection: bool = False
    budget: int  # seconds
    charged: float
    served: str  # the trial
    ended: str
    accuracy: float  # top-1, or mAP50
    second: float  # ECE, or mAP75
    plain: dict[str, float] = {}  # top-1 of each network, framing and kind of head

    @property
    def key(self) -> tuple[str, int, int]:
        """What was asked for."""
        return self.set, self.images, self.seed


def sets_in(data: Path) -> dict[str, bool]:
    """The sets by name, and which are for detection."""
    folders = sorted(path.parent for path in data.glob("*/train.json") if (path.parent / "test.json").is_file())
    return {one.name: read_export(one / "train.json", Reading()).imported.detection for one in folders}


def known(results: Path | None) -> list[Row]:
    """The rows of earlier runs."""
    if results is None or not results.exists():
        return []
    return [msgspec.json.decode(line, type=Row) for line in results.read_bytes().splitlines()]


def keep(row: Row, results: Path | None) -> None:
    """Appends the row to the file."""
    if results is not None:
        with results.open("ab") as file:
            file.write(msgspec.json.encode(row) + b"\n")


def measure(
    client: Stubs, name: str, wanted: Sequence[tuple[int, int]], scratch: Path, *, detection: bool
) -> Iterator[Row]:
    """A row for each number of images and seed."""
    folder = support.folder("SIGHTLINE_TEST_DATA") / name
    support.register(client, f"{name}-test", folder / "test.json", detection=detection)
    plain = None if detection else PlainHeads(folder, support.folder("SIGHTLINE_WEIGHTS_DIR"))
    labels = labels_of(folder / "train.json")
    for images, seed in wanted:
        chosen = few(images, seed)(labels)
        training = f"{name}-{images}-{seed}"
        subset = write_subset(folder / "train.json", scratch / f"{training}.json", chosen)
        support.register(client, training, subset, images=folder, detection=detection)
        budget = budget_seconds(name, images, len(chosen), detection=detection)
        last = trained(client, training, f"{name}-test", budget, seed, detection=detection)
        found = last.performance
        yield Row(
            set=name,
            images=images,
            seed=seed,
            detection=detection,
            budget=budget,
            charged=last.training_cost.ToTimedelta().total_seconds(),
            served=last.best_trial.rsplit("/", 1)[-1],
            ended=model_pb2.Model.StopReason.Name(last.stop_reason),
            accuracy=found.mean_average_precision_50 if detection else found.accuracy_top1,
            second=found.mean_average_precision_75 if detection else found.calibration_ece,
            plain=plain.accuracies(chosen) if plain else {},
        )


def measure_alone(name: str, wanted: Sequence[tuple[int, int]], scratch: Path) -> Iterator[Row]:
    """The same of a classifier's ladder without services and without a budget: all of its recipes, one by one."""
    data, weights = support.folder("SIGHTLINE_TEST_DATA") / name, support.folder("SIGHTLINE_WEIGHTS_DIR")
    plain, labels = PlainHeads(data, weights), labels_of(data / "train.json")
    test = pack(data / "test.json", scratch / name / "test", KIND)
    for images, seed in wanted:
        root = scratch / name / f"{images}-{seed}"
        train = pack(data / "train.json", root / "train", KIND, keep=few(images, seed))
        *tried, served = climb(train, test, weights, root, seed, max_rung=1)
        yield Row(
            set=name,
            images=images,
            seed=seed,
            budget=0,
            charged=sum(each.seconds for each in tried),
            served=next(each.recipe for each in tried if each[1:] == served[1:]),
            ended="LADDER_COMPLETED",
            accuracy=served.accuracy,
            second=served.calibration_error,
            plain=plain.accuracies(few(images, seed)(labels)),
        )


def trained(client: Stubs, training: str, test: str, budget: int, seed: int, *, detection: bool) -> model_pb2.Model:
    """The model once it has ended; SystemExit if it failed."""
    kinds = model_pb2.TrainingParameters
    kind = kinds.GENERIC_DETECTOR if detection else kinds.GENERIC_CLASSIFIER
    model = support.create_model(client, training, training, test, budget, seed, kind)
    *_, last = client.watch_model(model)
    if last.state != model_pb2.Model.SUCCEEDED:
        raise SystemExit(f"{model} did not succeed: {last.error.message}")
    return last


def budget_seconds(name: str, images: int, count: int, *, detection: bool) -> int:
    """By the set if it is for detection, otherwise by its images."""
    if detection:
        return DETECTION_BUDGETS.get(name, DETECTION_BUDGET_SECONDS)
    for most, seconds in FEW_BUDGETS:
        if 0 < images <= most:
            return seconds
    return round(BUDGET_SECONDS + SECONDS_PER_IMAGE * count)


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """A table for each number of images per category, and one of the detection sets."""
    by_images: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        if not row.detection:
            by_images[row.images].append(row)
    for images, of_size in sorted(by_images.items(), key=lambda item: item[0] or 10**9):
        yield from _classification(images, of_size)
    detection = [row for row in rows if row.detection]
    if detection:
        yield "\n| detection set | mAP50 | seeds | mAP75 | charged |\n|---|---|---|---|---|"
        for name, own in _by_set(detection).items():
            yield f"| {_marked(name)} | {_spread(own)} | {len(own)} | {_mean(own, 'second'):.3f} | {_cost(own)} |"
        means = [_mean(own, "accuracy") for own in _by_set(detection).values()]
        yield f"| mean | {statistics.mean(means):.3f} | | | |"


def best_plain(rows: Sequence[Row]) -> str:
    """The network, framing and kind of head that is best in the mean over the sets."""
    own = _by_set(rows).values()
    heads = set[str].intersection(*({*row.plain} for row in rows))
    return max(sorted(heads), key=lambda head: statistics.mean(_plain(rows, head) for rows in own))


def _classification(images: int, rows: Sequence[Row]) -> Iterator[str]:
    head = best_plain(rows)
    yield f"\n{images or 'all'} images per category; the plain head is {head}\n"
    yield "| image set | top-1 | seeds | plain head | difference | ECE | charged |\n|---|---|---|---|---|---|---|"
    groups = _by_set(rows)
    for name, own in groups.items():
        plain = _plain(own, head)
        difference = _mean(own, "accuracy") - plain
        yield (
            f"| {_marked(name)} | {_spread(own)} | {len(own)} | {plain:.3f} | {difference:+.3f} "
            f"| {_mean(own, 'second'):.3f} | {_cost(own)} |"
        )
    for title, some in (
        ("mean", groups),
        ("mean of the unmarked", {n: r for n, r in groups.items() if n not in CHOSEN_ON}),
    ):
        if some:
            ours, plain, error = (
                statistics.mean(values)
                for values in zip(
                    *((_mean(r, "accuracy"), _plain(r, head), _mean(r, "second")) for r in some.values()), strict=True
                )
            )
            goal = f" (goal {GOALS[images]:+.2f})" if title == "mean" and images in GOALS else ""
            yield f"| {title} | {ours:.3f} | | {plain:.3f} | {ours - plain:+.3f}{goal} | {error:.3f} | |"


def _by_set(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.key):
        groups[row.set].append(row)
    return dict(groups)


def _marked(name: str) -> str:
    return f"{name} *" if name in CHOSEN_ON else name


def _plain(rows: Sequence[Row], head: str) -> float:
    return statistics.mean(row.plain[head] for row in rows)


def _mean(rows: Sequence[Row], field: str) -> float:
    return statistics.mean(getattr(row, field) for row in rows)


def _spread(rows: Sequence[Row]) -> str:
    values = [row.accuracy for row in rows]
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _cost(rows: Sequence[Row]) -> str:
    of_budget = f" of {rows[0].budget}" if rows[0].budget else ""
    return f"{_mean(rows, 'charged'):.0f}{of_budget} s"
