"""Holds: who has one, and how a deletion and a hold exclude each other, step by step."""

from datetime import UTC, datetime

import pytest

from services.kit.errors import DatasetInUse, RecordNotFound
from services.kit.holds import Hold, Holder, Holds, interrupted
from services.kit.memory import MemoryRecords
from services.kit.records import Table

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PETS = "projects/acme/datasets/pets"
M = Holder("projects/acme/models/m", "u1")


@pytest.fixture
def holds() -> Holds:
    return Holds(MemoryRecords())


async def test_a_deletion_finds_every_holder_and_names_some(holds: Holds) -> None:
    for number in range(7):
        await holds.add(PETS, Holder(f"models/m{number}", "u"))
    with pytest.raises(DatasetInUse) as caught:
        await holds.close(PETS, 5, NOW)
    assert "models/m0, models/m1, models/m2, models/m3, models/m4 and 2 others" in caught.value.message
    assert caught.value.metadata["count"] == "7"


async def test_what_has_ended_holds_no_more(holds: Holds) -> None:
    await holds.add(PETS, M)
    await holds.add(PETS, M)
    await holds.remove(PETS, M)
    await holds.remove(PETS, M)
    await holds.close(PETS, 5, NOW)


async def test_a_hold_of_an_earlier_resource_of_the_name_is_not_ended_with_it(holds: Holds) -> None:
    await holds.add(PETS, M)
    later = Holder(M.name, "u2")
    await holds.add(PETS, later)
    await holds.remove(PETS, M)
    with pytest.raises(DatasetInUse):
        await holds.close(PETS, 5, NOW)
    await holds.remove(PETS, later)
    await holds.close(PETS, 5, NOW)


async def test_a_hold_is_told_the_latest_closing(holds: Holds) -> None:
    records = MemoryRecords()
    for number in range(20):
        await records.create(f"models/{number}", b"{}")
    holds = Holds(records)
    assert await holds.add(PETS, M) == 0
    await holds.remove(PETS, M)
    for revision in (15, 12):
        await holds.close(PETS, revision, NOW)
    assert await holds.add(PETS, M) == 15
    assert await holds.add(PETS, M) == 15, "also if it is there already"


async def test_the_record_goes_with_its_dataset_but_not_that_of_a_later_one_of_the_name() -> None:
    records = MemoryRecords()
    for number in range(20):
        await records.create(f"models/{number}", b"{}")
    holds = Holds(records)
    await holds.close(PETS, 12, NOW)
    await holds.forget(PETS, 13)
    await holds.forget(PETS, 13)
    with pytest.raises(RecordNotFound):
        await records.get("projects/acme/holds/pets")
    await holds.add(PETS, M)
    await holds.forget(PETS, 13)
    await holds.close(PETS, 18, NOW, force=True)
    await holds.forget(PETS, 13)
    assert await holds.add(PETS, M) == 18


async def test_a_closing_counts_only_in_the_stream_that_it_is_of() -> None:
    """Records copied into another stream have new, lower revisions."""
    records = MemoryRecords()
    copied = await Table(records, Hold).create("holds/pets", Hold("holds/pets", closed=900, close_time=NOW))
    assert not interrupted(copied, 5)
    assert await Holds(records).add("datasets/pets", M) == 0


def test_a_hold_knows_its_dataset() -> None:
    assert Hold("projects/acme/holds/pets").dataset == PETS
    assert Hold("holds/pets").dataset == "datasets/pets"
