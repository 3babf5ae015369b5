"""Planted copies are found, and pictures that only look alike are not called copies."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from mixonomy.data import open_source
from mixonomy.data.check.duplicates import MAX_DIFFERENCE, connected, differences, find_duplicates
from mixonomy.data.check.scan import parts_of, scan_images

EXIF = Image.Exif()
EXIF[0x0112] = 3  # upside down
COPIES = {
    "re-encoded": lambda image, encoded: encoded(image, "JPEG", quality=60),
    "smaller": lambda image, encoded: encoded(image.resize((image.width // 2, image.height // 2)), "JPEG", quality=85),
    "larger": lambda image, encoded: encoded(image.resize((image.width * 2, image.height * 2))),
    "squashed": lambda image, encoded: encoded(image.resize((64, 64))),
    "brighter": lambda image, encoded: encoded(ImageEnhance.Brightness(image).enhance(1.12), "JPEG", quality=85),
    "more contrast": lambda image, encoded: encoded(ImageEnhance.Contrast(image).enhance(1.15), "JPEG", quality=85),
    "turned by EXIF": lambda image, encoded: encoded(image.rotate(180), "JPEG", quality=90, exif=EXIF),
}


def groups(make_source, images: list[bytes]) -> list[list[int]]:
    """Groups of copies among image files."""
    scan = scan_images(parts_of(make_source(train=[(image, 0) for image in images])))
    return [group.tolist() for group in find_duplicates(scan).groups]


@pytest.mark.parametrize("change", COPIES)
def test_copy_is_found_among_pictures_that_are_different(change, picture, encoded, make_source):
    images = [encoded(picture(seed)) for seed in range(30)]
    images.append(COPIES[change](picture(17), encoded))
    assert groups(make_source, images) == [[17, 30]]


def test_copies_of_photographs_are_found_and_nothing_else(shared, encoded, make_source):
    train = open_source("imagenette", shared / "data").splits["train"]
    plain = [bytes(train.images[i]) for i in range(80)]
    copies = [change(_opened(plain[i]), encoded) for i, change in enumerate(COPIES.values())]
    assert groups(make_source, plain + copies) == [[i, 80 + i] for i in range(len(copies))]


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def test_copies_of_all_kinds_of_one_picture_are_one_group(picture, encoded, make_source):
    images = [encoded(picture(1)), encoded(picture(1)), *(change(picture(1), encoded) for change in COPIES.values())]
    assert groups(make_source, [*images, encoded(picture(2))]) == [list(range(len(images)))]


def test_flat_images_are_copies_only_if_they_are_equal(encoded, make_source):
    rng = np.random.default_rng(0)
    flat = [Image.new("RGB", (40, 40), (200, 200, 200 + i)) for i in range(8)]
    faint = [Image.fromarray(rng.integers(120, 123, (40, 40, 3), dtype=np.uint8)) for _ in range(8)]
    images = [encoded(image) for image in flat + faint]
    assert groups(make_source, [*images, images[3]]) == [[3, 16]]


def test_same_shape_in_another_colour_is_another_picture(encoded, make_source):
    def disc(colour: tuple[int, int, int]) -> bytes:
        y, x = np.mgrid[-1:1:64j, -1:1:64j]
        inside = (x**2 + y**2 < 0.4)[:, :, None]
        return encoded(Image.fromarray(np.where(inside, colour, 255).astype(np.uint8)))

    assert groups(make_source, [disc((255, 0, 0)), disc((0, 0, 255)), disc((0, 160, 0))]) == []


def test_handwritten_digits_that_look_alike_are_not_called_copies():
    duplicates = find_duplicates(scan_images(parts_of(open_source("digits"))))
    assert duplicates.groups == ()
    assert duplicates.max_difference < MAX_DIFFERENCE / 4


def test_equal_files_in_flowers102_are_found(shared):
    source = open_source("flowers102", shared / "data")
    few = ("carnation", "foxglove", "bromelia")
    classes = [source.class_names.index(name) for name in few]
    splits = {name: s.pick(np.flatnonzero(np.isin(s.labels, classes))) for name, s in source.splits.items()}
    found = {tuple(g.tolist()) for g in find_duplicates(scan_images(parts_of(replace(source, splits=splits)))).groups}
    equal: dict[bytes, list[int]] = {}
    for index, content in enumerate(bytes(s.images[i]) for s in splits.values() for i in range(len(s))):
        equal.setdefault(content, []).append(index)
    expected = {tuple(same) for same in equal.values() if len(same) > 1}
    assert expected == found and len(expected) == 4


def test_difference_of_equal_pictures_is_zero_and_of_unrelated_ones_about_one(picture):
    images = np.stack([np.array(picture(seed).resize((16, 16))) for seed in range(20)])
    assert differences(images, images).max() == 0
    assert differences(images[:-1], images[1:]).min() > 0.7


def test_difference_does_not_see_brightness_and_contrast(picture):
    dark = np.array(picture(0).resize((16, 16)))[None] // 2
    assert differences(dark, (dark * 1.25 + 20).astype(np.uint8))[0] < 0.01
    assert differences(dark, dark // 4)[0] > MAX_DIFFERENCE, "a contrast of a quarter is no slight change"


def test_connected_follows_chains():
    pairs = np.array([[5, 4], [4, 3], [9, 8], [3, 0], [7, 7]])
    assert connected(10, pairs).tolist() == [0, 1, 2, 0, 0, 0, 6, 7, 8, 8]
    assert connected(3, np.empty((0, 2), dtype=np.int64)).tolist() == [0, 1, 2]
    chain = np.stack([np.arange(999), np.arange(1, 1000)], axis=1)
    assert not connected(1000, chain[np.random.default_rng(0).permutation(999)]).any()
