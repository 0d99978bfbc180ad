"""The snapshot format: it round-trips, and the same content gives the same bytes."""

import io
import mmap
import tarfile
from pathlib import Path

import msgspec
import pytest

from services.vision.snapshot import (
    AnnotationKind,
    Box,
    Category,
    Entry,
    Manifest,
    PackWriter,
    Record,
    Shard,
    SnapshotDigest,
    count_categories,
    pack_into_bytes,
    read_index,
    read_manifest,
    read_record,
    write_index,
)


def entry(image_id: int, label: int = 0) -> Entry:
    return Entry(image_id=image_id, file_name=f"images/{image_id}.jpg", width=80, height=60, labels=(label,))


def items(*ids: int) -> list[tuple[Entry, bytes, str]]:
    return [(entry(i, i % 2), b"image %d " % i * (i * 100), "jpg") for i in ids]


CATEGORIES = (
    Category(id=7, name="cat", image_count=0, annotation_count=0),
    Category(id=9, name="dog", image_count=0, annotation_count=0),
)


def digest_of(*shards: tuple[Record, ...], categories: tuple[Category, ...] = CATEGORIES) -> str:
    digest = SnapshotDigest(AnnotationKind.IMAGE_CLASSIFICATION, categories)
    for records in shards:
        digest.add(records)
    return digest.hexdigest()


def test_a_shard_is_a_plain_tar_with_an_image_and_a_json_member_per_record() -> None:
    data, index = pack_into_bytes(items(1, 2, 30))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
        assert [member.name for member in members][:3] == ["000000000001.jpg", "000000000001.json", "000000000002.jpg"]
        assert {(member.mtime, member.uid, member.gid, member.uname) for member in members} == {(0, 0, 0, "")}
        sidecar = tar.extractfile("000000000030.json")
        assert sidecar is not None
        assert msgspec.json.decode(sidecar.read(), type=Entry) == entry(30, 0)
        assert len(index.records) == 3
        for record in index.records:
            image = tar.extractfile(f"{record.image_id:012d}.jpg")
            assert image is not None
            assert image.read() == read_record(data, record, verify=True)
    assert index.size_bytes == len(data)


def test_the_same_entries_give_the_same_bytes() -> None:
    assert pack_into_bytes(items(1, 2, 3)) == pack_into_bytes(items(1, 2, 3))


def test_a_record_reads_the_same_from_a_path_a_memory_map_and_memory(tmp_path: Path) -> None:
    data, index = pack_into_bytes(items(4, 5))
    path = tmp_path / "shard.tar"
    path.write_bytes(data)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for record, (_, image, _) in zip(index.records, items(4, 5), strict=True):
            assert read_record(path, record) == read_record(mapped, record) == read_record(data, record) == image


def test_a_damaged_or_short_shard_is_detected() -> None:
    data, index = pack_into_bytes(items(4, 5))
    damaged = data.replace(b"image 5", b"image 6")
    with pytest.raises(ValueError, match=r"image 5 \(images/5.jpg\)"):
        read_record(damaged, index.records[1], verify=True)
    with pytest.raises(ValueError, match="image 5"):
        read_record(data[:1024], index.records[1])


def test_an_index_round_trips_and_junk_is_refused() -> None:
    boxes = (Box(1.5, 2.0, 30.25, 40.0, 1), Box(0.0, 0.0, 5.0, 5.0, 0, iscrowd=True))
    detection = Entry(image_id=12, file_name="d\u00e9tail.png", width=64, height=64, boxes=boxes)
    _, index = pack_into_bytes([*items(3), (detection, b"png", "png")])
    assert read_index(write_index(index)) == index
    assert read_index(write_index(index)).records[1].boxes == boxes
    with pytest.raises(msgspec.ValidationError):
        read_index(b'{"records": 3}')


def test_ids_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(ValueError, match="ascend: 2 after 2"):
        pack_into_bytes(items(2, 2))
    _, first = pack_into_bytes(items(5))
    _, second = pack_into_bytes(items(4))
    with pytest.raises(ValueError, match="ascend: 4 after 5"):
        digest_of(first.records, second.records)


def test_the_digest_does_not_depend_on_sharding() -> None:
    _, whole = pack_into_bytes(items(1, 2, 3))
    _, head = pack_into_bytes(items(1))
    _, tail = pack_into_bytes(items(2, 3))
    assert digest_of(whole.records) == digest_of(head.records, tail.records)


def test_the_digest_depends_on_pixels_labels_names_and_categories() -> None:
    _, index = pack_into_bytes(items(1, 2))
    record = index.records[0]
    renamed = tuple(msgspec.structs.replace(category, name="bird") for category in CATEGORIES)
    digests = {
        digest_of(index.records),
        digest_of((msgspec.structs.replace(record, sha256="0" * 64), index.records[1])),
        digest_of((msgspec.structs.replace(record, labels=(0, 1)), index.records[1])),
        digest_of((msgspec.structs.replace(record, file_name="other.jpg"), index.records[1])),
        digest_of((msgspec.structs.replace(record, boxes=(Box(0, 0, 1, 1, 0),)), index.records[1])),
        digest_of(index.records[:1]),
        digest_of(index.records, categories=renamed),
    }
    assert len(digests) == 7
    counted = tuple(msgspec.structs.replace(category, image_count=5) for category in CATEGORIES)
    assert digest_of(index.records, categories=counted) == digest_of(index.records)


def test_the_manifest_round_trips_and_another_version_is_refused() -> None:
    _, index = pack_into_bytes(items(1, 2, 3))
    shard = Shard(key="a.tar", index_key="a.json", sha256=index.sha256, size_bytes=index.size_bytes, record_count=3)
    manifest = Manifest(
        kind=AnnotationKind.IMAGE_CLASSIFICATION,
        categories=count_categories([(7, "cat"), (9, "dog")], [index]),
        shards=(shard,),
        image_count=3,
        digest=digest_of(index.records),
    )
    assert read_manifest(manifest.encode()) == manifest
    assert [category.image_count for category in manifest.categories] == [1, 2]
    with pytest.raises(ValueError, match="snapshot format 2"):
        read_manifest(msgspec.structs.replace(manifest, format_version=2).encode())


def test_images_and_annotations_of_a_category_are_counted_separately() -> None:
    boxes = (Box(0, 0, 5, 5, 1), Box(9, 9, 5, 5, 1))
    _, index = pack_into_bytes([(Entry(image_id=1, file_name="a", width=60, height=60, boxes=boxes), b"x", "jpg")])
    cat, dog = count_categories([(7, "cat"), (9, "dog")], [index])
    assert (cat.image_count, cat.annotation_count) == (0, 0)
    assert (dog.image_count, dog.annotation_count) == (1, 2)


def test_an_image_with_nothing_but_a_group_of_objects_is_none_to_learn_a_category_from() -> None:
    boxes = (Box(0, 0, 50, 50, 1, iscrowd=True),)
    _, index = pack_into_bytes([(Entry(image_id=1, file_name="a", width=60, height=60, boxes=boxes), b"x", "jpg")])
    _, dog = count_categories([(7, "cat"), (9, "dog")], [index])
    assert (dog.image_count, dog.annotation_count) == (0, 1)


def test_a_writer_says_when_its_shard_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.vision.snapshot.SHARD_BYTES", 4096)
    writer = PackWriter(io.BytesIO())
    assert not writer.full
    writer.add(entry(1), b"x" * 5000, "jpg")
    assert writer.full
