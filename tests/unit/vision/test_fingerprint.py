"""Fingerprints and the search by them: what counts as the same image, what as nearly the same, and at what cost."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from services.vision.decode import decode
from services.vision.fingerprint import HASH_BYTES, fingerprint, perceptual_hash
from services.vision.near_duplicates import ALIKE_BITS, NEIGHBOURS, Hashes, closest, near_groups

# The near-duplicates of the sets in SIGHTLINE_TEST_DATA, as a person sees them; all other pairs show something else.
REAL_PAIRS = {
    "bccd": {("0035.jpg", "0247.jpg")},
    "coffee_leaf": set[tuple[str, str]](),
    "eurosat": set[tuple[str, str]](),
    "fork_scissors": {("0006.jpg", "0030.jpg")},
    "grocery": set[tuple[str, str]](),
    "hemlock_cherry": set[tuple[str, str]](),
    "kuih": {("0048.jpg", "0051.jpg"), ("0039.jpg", "0052.jpg")},
    "maize_kernels": set[tuple[str, str]](),
    "omniglot_greek": set[tuple[str, str]](),
    "pcb_defects": set[tuple[str, str]](),
    "raccoon": {("0002.jpg", "0015.jpg"), ("0086.jpg", "0110.jpg")},
    "steel_defects": set[tuple[str, str]](),
    "traffic_lights": {("0053.jpg", "0055.jpg")},
    "trash": set[tuple[str, str]](),
}


def hashes(*images: NDArray[np.uint8]) -> Hashes:
    return np.array([np.frombuffer(perceptual_hash(image), np.uint8) for image in images])


def scene(seed: int, width: int = 240, height: int = 180) -> NDArray[np.uint8]:
    """Coloured shapes that depend on the seed."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), tuple(random.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        left, top = int(random.integers(0, width - 20)), int(random.integers(0, height - 20))
        across, down = random.integers(15, 90, 2).tolist()
        draw.ellipse((left, top, left + across, top + down), fill=tuple(random.integers(0, 256, 3).tolist()))
    return np.asarray(image)


def jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    out = BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=quality)
    return decode(out.getvalue())


def resized(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def flipped(one: NDArray[np.uint8], bits: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """The hash with so many bits of the brightness changed."""
    changed = np.unpackbits(one)
    changed[random.choice(192, bits, replace=False)] ^= 1
    return np.packbits(changed)


def test_equal_pixels_have_equal_digests_whatever_the_file_format() -> None:
    image, out = scene(1), BytesIO()
    Image.fromarray(image).save(out, "BMP")
    assert fingerprint(decode(out.getvalue())) == fingerprint(image)
    brighter = image.copy()
    brighter[0, 0, 0] ^= 1
    assert fingerprint(brighter).pixels != fingerprint(image).pixels
    assert fingerprint(image.reshape(90, 480, 3)).pixels != fingerprint(image).pixels


@pytest.mark.parametrize("seed", range(8))
def test_another_quality_size_exposure_or_a_trimmed_edge_is_nearly_the_same(seed: int) -> None:
    image = scene(seed)
    brighter = np.clip(image * 1.15 + 5, 0, 255).astype(np.uint8)
    changed = [jpeg(image, 75), jpeg(image, 30), resized(image, 120, 90), resized(image, 500, 375), brighter]
    found, distances = closest(hashes(*changed, image[2:-2, 2:-2]), hashes(image))
    assert found.tolist() == [0] * 6, distances


def test_other_scenes_mirrored_ones_and_other_colours_are_not() -> None:
    image = scene(3)
    others = [scene(4), image[:, ::-1], image[::-1], image[..., ::-1]]
    found, distances = closest(hashes(*others), hashes(image))
    assert found.tolist() == distances.tolist() == [-1] * 4


def test_an_image_of_one_colour_resembles_none() -> None:
    assert perceptual_hash(np.full((60, 60, 3), 200, np.uint8)) == b""
    assert fingerprint(np.full((60, 60, 3), 200, np.uint8)).perceptual == ""
    assert len(perceptual_hash(scene(1))) == HASH_BYTES


def test_a_group_has_all_that_are_linked_and_is_named_by_its_first() -> None:
    random = np.random.default_rng(0)
    start, alone = random.integers(0, 256, (2, HASH_BYTES), np.uint8)
    chain = [start]
    for _ in range(5):
        chain.append(flipped(chain[-1], 20, random))
    rows = np.array([alone, *chain[::-1], start])
    assert near_groups(rows).tolist() == [0, 1, 1, 1, 1, 1, 1, 1]


def test_groups_do_not_depend_on_the_order_of_the_images() -> None:
    random = np.random.default_rng(1)
    first = random.integers(0, 256, (200, HASH_BYTES), np.uint8)
    rows = np.array([flipped(first[each % 200], each % 12, random) for each in range(1000)])
    order = random.permutation(len(rows))
    here, there = near_groups(rows), near_groups(rows[order])
    assert np.array_equal(here[order] == here[order][:, None], there == there[:, None])
    assert len(np.unique(here)) == len(first)


def test_no_two_of_many_hashes_are_missed_at_the_largest_distance() -> None:
    random = np.random.default_rng(2)
    many = random.integers(0, 256, (20_000, HASH_BYTES), np.uint8)
    chosen = random.choice(len(many), 300, replace=False)
    similar = np.array([flipped(many[each], ALIKE_BITS, random) for each in chosen])
    groups = near_groups(np.concatenate((many, similar)))
    assert (groups[len(many) :] == chosen).mean() > 0.99
    assert (closest(similar, many)[0] == chosen).mean() > 0.99
    assert (groups[: len(many)] == np.arange(len(many))).all()


def test_more_frames_of_one_scene_than_are_compared_with_each_other_are_still_one_group() -> None:
    random = np.random.default_rng(3)
    start = random.integers(0, 256, HASH_BYTES, np.uint8)
    frames = np.array([flipped(start, 8, random) for _ in range(100 * NEIGHBOURS)])
    assert not near_groups(frames).any()
    assert (closest(frames[::2], frames[1::2])[0] >= 0).all()


def test_nothing_resembles_none() -> None:
    none = np.empty((0, HASH_BYTES), np.uint8)
    assert near_groups(none).tolist() == []
    assert closest(hashes(scene(1)), none)[0].tolist() == [-1]
    assert closest(none, hashes(scene(1)))[0].tolist() == []


@pytest.mark.parametrize("name", sorted(REAL_PAIRS))
def test_in_real_sets_exactly_the_images_that_a_person_calls_the_same_are_found(test_data: Path, name: str) -> None:
    files = sorted((test_data / name / "images").iterdir())
    found = [perceptual_hash(decode(file.read_bytes())) for file in files]
    hashed = [index for index, each in enumerate(found) if each]
    groups = near_groups(np.array([np.frombuffer(found[index], np.uint8) for index in hashed]))
    pairs = {
        (files[hashed[first]].name, files[hashed[each]].name) for each, first in enumerate(groups) if each != first
    }
    assert pairs == REAL_PAIRS[name]
