"""How long a call may wait for a worker."""

from __future__ import annotations

import pytest

from services.trainer.call_time import waiting_seconds


@pytest.mark.parametrize(
    ("given", "waits"), [(0.0, 0.0), (1.0, 0.75), (4.0, 3.0), (10.0, 9.0), (60.0, 57.0), (600.0, 590.0)]
)
def test_a_short_call_keeps_a_second_for_its_answer_and_a_long_one_at_most_ten(given: float, waits: float) -> None:
    assert waiting_seconds(given) == waits
