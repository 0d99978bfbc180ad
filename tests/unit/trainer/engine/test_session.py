"""What a child reports of its progress, and how often."""

from __future__ import annotations

from datetime import timedelta

from services.trainer.engine.session import Meter, Session
from services.trainer.messages import Message, Progress


def test_a_task_that_takes_too_long_names_the_budget_that_would_suffice() -> None:
    meter = Meter(timedelta(seconds=7.5), charge=8.0)
    assert meter.not_enough("datasets/d", 100, 55.0, 110.0).message == (
        "A budget of 60.0 s is not enough for datasets/d (100 images): the minimum is 440.0 s, 880.0 s is suggested."
    )


def test_every_phase_is_reported_when_it_begins_however_short_the_one_before_was() -> None:
    sent: list[Message] = []
    session = Session(Meter(timedelta(minutes=10)), sent.append)
    for done in (0.0, 0.5, 1.0):
        session.progress("features", done, 0.0, 0.9)
    session.progress("bundle", 0.0, 0.9, 1.0)
    session.alive()
    assert sent == [Progress(fraction=0.0, phase="features"), Progress(fraction=0.9, phase="bundle")]
