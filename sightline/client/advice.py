"""What to do to make a model better, in sentences: what to collect, when to stop, what is confused, what to check."""

from collections import Counter
from dataclasses import dataclass

from sightline.client.results.insight import CategoryGain, Doubt, Gain, LearningCurve, Mistake
from sightline.client.results.kinds import DoubtKind
from sightline.client.results.model import ModelData
from sightline.client.results.performance import Performance
from sightline.plurals import counted

ENOUGH = 0.01  # an expected gain that is surely below this is not worth collecting images for
SHOWN_CATEGORIES, SHOWN_PAIRS, SHOWN_IMAGES = 5, 3, 5
DOUBTFUL = 0.8  # confidence of a wrong prediction from which the label deserves a look
LEAST_CONFUSED = 2  # images


@dataclass(frozen=True, slots=True)
class Advice:
    """Sentences about one question."""

    question: str
    sentences: tuple[str, ...]


def advice(model: ModelData) -> tuple[Advice, ...]:
    """The advice for a model as `get` returns it. Sentences claim nothing that the intervals do not show."""
    if not model.version:
        ended = "Training has ended without a result." if model.end_time else ""
        return (Advice("Now", (ended or "There is no result yet; ask again when training has one.",)),)
    curve = model.learning_curve
    questions = (
        ("Better than guessing", _guessing(model.performance)),
        ("More images", _collect(curve) if curve else (_no_curve(model),)),
        ("Confused categories", _confused(model)),
        ("Labels to check", _check_boxes(model.doubts) or _check(model.worst_mistakes)),
        ("So far", () if model.end_time else ("Training has not ended; all of this may change.",)),
    )
    return tuple(Advice(question, sentences) for question, sentences in questions if sentences)


def _guessing(performance: Performance) -> tuple[str, ...]:
    """That the measured images do not show that anything was learnt; nothing if they do."""
    counts = {name: one.support for name, one in performance.categories.items()}
    total = sum(counts.values())
    if performance.mean_average_precision_30 == 0 and total:
        found = f"The model found nothing of what it was measured on: {counted(total, 'box', 'boxes')}."
        return (found, "Look for boxes that are too small in the dataset's findings, and train with a larger budget.")
    interval = performance.intervals.get("accuracy_top1")
    if interval is None or not total:
        return ()
    most = max(counts, key=counts.__getitem__)
    if interval.low > counts[most] / total:
        return ()
    right, always = f"{100 * (performance.accuracy_top1 or 0):.0f} %", f"{100 * counts[most] / total:.0f} %"
    doubt = (
        f"It cannot be told from {counted(performance.image_count, 'image')} whether the model is better than always "
        f"answering {most}: it is right in {right}, that would be right in {always}."
    )
    return (doubt, "Measure it on more images, check the labels, or train with a larger budget.")


def _collect(curve: LearningCurve) -> tuple[str, ...]:
    every = f"{counted(curve.added_images, 'image')} more of every category"
    if curve.gain.interval.high < ENOUGH:
        most = f"{100 * max(0.0, curve.gain.interval.high):.1f}"
        stop = f"Stop collecting images like these: {every} are worth at most {most} points of accuracy."
        return (stop, "If that is not enough, check the labels, or collect images of the situations that go wrong.")
    if curve.gain.interval.low <= 0:
        sentences = [f"It cannot be told whether {every} help: {_range(curve.gain)} points."]
    else:
        sentences = [f"{every} are worth about {_about(curve.gain)} of accuracy."]
    worth = [one for one in curve.categories if one.gain.interval.low > 0]
    worth.sort(key=lambda one: one.net_gain.interval.low <= 0)  # those that harm no other first
    sentences += [_worth(one, curve.added_images) for one in worth[:SHOWN_CATEGORIES]]
    if not worth:
        sentences.append("For no single category can it be told whether more images of it alone help.")
    done = [one.category for one in curve.categories if one.gain.interval.high < ENOUGH]
    if done and worth:
        sentences.append(f"More images of these will hardly help: {', '.join(done[-SHOWN_CATEGORIES:])}.")
    return tuple(sentences)


def _worth(one: CategoryGain, added: int) -> str:
    """`+10 images of Pink-Lady are worth about +4 points (1 to 7)`, where it stands, and what others lose by it."""
    stands = f"{100 * one.recall:.0f} % of its {counted(one.image_count, 'image')} are recognised"
    text = f"+{counted(added, 'image')} of {one.category} are worth about {_about(one.gain)} of its recall; {stands}."
    if one.net_gain.interval.low > 0:
        return text
    return f"{text} Other categories may lose as much by it (net {_range(one.net_gain)}): collect more of them too."


def _about(gain: Gain) -> str:
    return f"{_signed(gain.value)} points ({_range(gain)})"


def _range(gain: Gain) -> str:
    return f"{_number(gain.interval.low)} to {_number(gain.interval.high)}"


def _signed(share: float) -> str:
    return f"{'+' if share >= 0 else ''}{_number(share)}"


def _number(share: float) -> str:
    """Points, with a decimal only below 10."""
    points = 100 * share
    text = f"{points:.0f}" if abs(points) >= 10 else f"{points:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def _no_curve(model: ModelData) -> str:
    reason = model.message.learning_curve.unavailable or "This version of the service does not measure it."
    return f"What more images are worth is not known. {reason}"


def _confused(model: ModelData) -> tuple[str, ...]:
    """The pairs of categories that are most often taken for one another, either way."""
    pairs, right = Counter[tuple[str, str]](), Counter[str]()
    for cell in model.performance.confusion:
        right[cell.true] += cell.count
        if cell.true != cell.predicted:
            first, second = sorted((cell.true, cell.predicted))
            pairs[first, second] += cell.count
    often = [(pair, count) for pair, count in pairs.most_common(SHOWN_PAIRS) if count >= LEAST_CONFUSED]
    if not often:
        return ()
    sentences = [
        f"{first} and {second} are taken for one another in {count} of their {right[first] + right[second]} images."
        for (first, second), count in often
    ]
    return (*sentences, "Collect images that show what tells them apart, or merge them if it does not matter.")


def _check(mistakes: tuple[Mistake, ...]) -> tuple[str, ...]:
    """The images whose labels are most in doubt."""
    found = [mistake for mistake in mistakes if mistake.probability is None or mistake.probability >= DOUBTFUL]
    return tuple(_doubt(mistake) for mistake in found[:SHOWN_IMAGES])


def _check_boxes(doubts: tuple[Doubt, ...]) -> tuple[str, ...]:
    """The boxes that are most in doubt."""
    return tuple(_doubtful_box(doubt) for doubt in doubts[:SHOWN_IMAGES])


def _doubtful_box(doubt: Doubt) -> str:
    found = f"{doubt.category} ({100 * doubt.confidence:.0f} % sure)"
    where = "[" + ", ".join(f"{value:.0f}" for value in doubt.box) + "]"
    match doubt.kind:
        case DoubtKind.CATEGORY:
            sentence = f"what is labelled {doubt.region_category} at {where} looks like {found}"
        case DoubtKind.MISPLACED:
            sentence = f"the box near {where} is not where there seems to be {found}"
        case _:
            sentence = f"there is no box at {where}, where there seems to be {found}"
    return f"{doubt.file_name}: {sentence}."


def _doubt(mistake: Mistake) -> str:
    if mistake.probability is None:
        return f"{mistake.file_name}: {mistake.boxes}."
    predicted = f"{mistake.predicted_category} ({100 * mistake.probability:.0f} % sure)"
    return f"{mistake.file_name} is labelled {mistake.true_category}, but looks like {predicted}."
