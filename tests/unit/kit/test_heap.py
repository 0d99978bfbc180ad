"""The collector of cycles rests while much is read."""

import gc
from collections.abc import Iterator

import pytest

from services.kit import heap


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    gc.collect()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("many", [True, False])
def test_the_collector_rests_until_the_last_block_ends_and_leaves_alone_what_was_read(many: bool) -> None:
    with heap.loading():
        with heap.loading():
            read = [[number] for number in range(2 * heap.MANY if many else 1000)]
        assert not gc.isenabled()
        assert not gc.get_freeze_count()
    assert gc.isenabled()
    assert (gc.get_freeze_count() >= len(read)) is many


def test_it_works_again_after_an_error() -> None:
    with pytest.raises(ValueError, match="broken"), heap.loading():
        raise ValueError("broken")
    assert gc.isenabled()
