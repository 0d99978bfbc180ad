"""Signs of life reach whoever listens in the same thread, and nobody else."""

from threading import Thread

from services.kit import pulse


def test_beats_are_heard_within_the_block_only() -> None:
    heard: list[str] = []
    pulse.beat()
    with pulse.heard(lambda: heard.append("outer")):
        pulse.beat()
        with pulse.heard(lambda: heard.append("inner")):
            pulse.beat()
        pulse.beat()
    pulse.beat()
    assert heard == ["outer", "inner", "outer"]


def test_another_thread_cannot_beat_for_this_one() -> None:
    heard: list[str] = []
    with pulse.heard(lambda: heard.append("beat")):
        other = Thread(target=pulse.beat)
        other.start()
        other.join()
    assert heard == []
