"""Batch-wise augmentation beside torchvision's, operation by operation and in distribution.

Axes: B images, c image channels, H and W pixels.
"""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from mixonomy.data import BadImages, Split, stream
from mixonomy.data.augment import augment_batch, inside, resized_crops, shifted
from mixonomy.data.boxes import DRAWS, or_central_box, random_box, random_boxes
from mixonomy.data.loading import InMemoryData, Pixels, WorkerData, train_data
from mixonomy.data.mix import mix
from mixonomy.evals import normalise
from mixonomy.preprocessing import Preprocessing
from mixonomy.recipe import Augment

NUM_IMAGES = 1500
# Two samples of 1500 differ by more than this once in 10,000 times (two-sample Kolmogorov-Smirnov).
KS_LIMIT = 2.23 * (2 / NUM_IMAGES) ** 0.5


def keys(count: int, seed: int = 0) -> np.ndarray:
    return stream.sample_keys(seed, np.zeros(count, np.int64), np.arange(count))


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def ks_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference between two samples' shares of values up to x, over all x."""
    at = np.concatenate([a, b])
    shares = [np.searchsorted(np.sort(sample), at, side="right") / len(sample) for sample in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max())


def both_paths(image: torch.Tensor, config: Augment, image_size: tuple[int, int]) -> list[torch.Tensor]:
    """Many augmented versions of one image [c, H, W] by the in-memory and by the per-sample path."""
    preprocessing = Preprocessing(image_size, resize=1.0)
    pixels = image[None].expand(NUM_IMAGES, -1, -1, -1)
    split = Split(pixels.permute(0, 2, 3, 1).numpy(), np.zeros(NUM_IMAGES, np.int64), ["x"] * NUM_IMAGES)
    in_memory = in_memory_data(pixels, split, config, preprocessing)
    by_workers = WorkerData(split, config, preprocessing, stream.Order(1, len(split)), 0, BadImages())
    return [next(data.batches(0, NUM_IMAGES)).images for data in (in_memory, by_workers)]


def in_memory_data(images: torch.Tensor, split: Split, config: Augment, preprocessing: Preprocessing) -> InMemoryData:
    pixels = Pixels(images.__getitem__, split, tuple(images.shape[1:]), torch.device("cpu"))
    return InMemoryData(pixels, split, config, preprocessing, stream.Order(0, len(split)), BadImages())


def coordinates(size: int, step: int, start: int = 30) -> torch.Tensor:
    """[3, size, size]: the first channel tells the row, the second the column."""
    ramp = (start + step * torch.arange(size)).to(torch.uint8)
    row, column = ramp[:, None].expand(size, size), ramp[None, :].expand(size, size)
    return torch.stack([row, column, torch.full_like(row, 255)])


@pytest.mark.parametrize("out_size", [(16, 16), (9, 20), (64, 48)], ids=str)
def test_resized_crop_equals_torchvisions_to_one_grey_level(out_size):
    images = noise(40, 3, 32, 24)
    boxes = random_boxes(stream.uniforms(keys(40), DRAWS), (32, 24), area=(0.02, 1.0), ratio=(0.5, 2.0), whole=True)
    boxes = or_central_box(boxes, (32, 24), (0.5, 2.0))
    boxes[:3] = [[0, 0, 32, 24], [31, 23, 1, 1], [0, 5, 32, 1]]
    ours = resized_crops(images, boxes, out_size)
    assert ours.shape == (40, 3, *out_size) and ours.dtype == torch.uint8
    for image, box, out in zip(images, boxes.tolist(), ours, strict=True):
        theirs = functional.resized_crop(image, *box, size=list(out_size), antialias=True)
        assert (out.int() - theirs.int()).abs().max() <= 1, box


def test_resized_crop_of_a_box_of_the_models_size_is_the_box():
    images = noise(2, 3, 12, 12)
    boxes = np.array([[2, 3, 8, 8], [0, 4, 8, 8]])
    expected = torch.stack([images[0, :, 2:10, 3:11], images[1, :, 0:8, 4:12]])
    assert torch.equal(resized_crops(images, boxes, (8, 8)), expected)


def test_shift_equals_padding_and_cutting_out():
    images, pad = noise(50, 3, 7, 9), 2
    draws = stream.uniforms(keys(50), 2)
    expected = []
    for image, (y, x) in zip(images, draws, strict=True):
        padded = functional.pad(image, [pad] * 4)
        top, left = int(y * 5), int(x * 5)
        expected.append(padded[:, top : top + 7, left : left + 9])
    assert torch.equal(shifted(images, draws, pad), torch.stack(expected))


def test_inside_marks_exactly_the_pixels_of_the_box():
    boxes = np.array([[0, 0, 2, 3], [1, 2, 4, 1], [4, 5, 1, 1], [2, 2, 0, 0]])
    masks = inside(boxes, (5, 6), torch.device("cpu"))
    for mask, (top, left, height, width) in zip(masks, boxes.tolist(), strict=True):
        expected = torch.zeros(1, 5, 6, dtype=torch.bool)
        expected[:, top : top + height, left : left + width] = True
        assert torch.equal(mask, expected)


@pytest.mark.parametrize("image_size", [(8, 30), (30, 8), (10, 10), (9, 12)], ids=str)
def test_central_box_is_torchvisions_where_no_attempt_fits(image_size):
    ratio = (3 / 4, 4 / 3)
    transform = v2.RandomResizedCrop(8, scale=(1.5, 1.5), ratio=ratio)  # never fits
    theirs = transform.make_params([torch.zeros(3, *image_size)])
    ours = or_central_box(np.zeros((1, 4), np.int64), image_size, ratio)[0]
    assert ours.tolist() == [theirs[key] for key in ("top", "left", "height", "width")]


def test_boxes_lie_inside_the_image_and_within_their_area():
    boxes = random_boxes(stream.uniforms(keys(3000), DRAWS), (40, 60), area=(0.1, 0.5), ratio=(0.5, 2.0), whole=True)
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 40).all() and (left + width <= 60).all()
    area = (height * width)[height > 0] / (40 * 60)
    assert (height > 0).mean() > 0.99
    assert area.min() > 0.09 and area.max() < 0.52


def test_box_of_one_image_is_that_of_the_batch():
    draws = stream.uniforms(keys(500), DRAWS)
    for size in ((30, 40), (9, 200), (3, 3), (375, 500)):
        boxes = random_boxes(draws, size, area=(0.05, 1.0), ratio=(3 / 4, 4 / 3), whole=True)
        boxes = or_central_box(boxes, size, (3 / 4, 4 / 3))
        ones = [random_box(row, size, area=(0.05, 1.0), ratio=(3 / 4, 4 / 3)) for row in draws.tolist()]
        assert ones == [tuple(box) for box in boxes.tolist()]


@pytest.mark.parametrize(
    "config",
    [
        Augment(crop="inception", min_area=0.1, flip=True),
        Augment(crop="pad", pad=3, flip=True),
        Augment(crop="resmall", flip=True),
        Augment(flip=True, erase_prob=0.5),
    ],
    ids=["inception", "pad", "resmall", "erase"],
)
def test_both_paths_make_the_same_images_of_the_same_samples(config):
    pixels = noise(60, 3, 24, 24)
    split = Split(pixels.permute(0, 2, 3, 1).numpy(), np.zeros(60, np.int64), ["x"] * 60)
    size = (21, 21) if config.crop == "resmall" else (24, 24)  # of which 24 is 256/224
    preprocessing, order = Preprocessing(size, resize=1.0), stream.Order(0, 60)
    in_memory = in_memory_data(pixels, split, config, preprocessing)
    by_workers = WorkerData(split, config, preprocessing, order, 0, BadImages())
    ours, theirs = (next(data.batches(0, 60)).images for data in (in_memory, by_workers))
    assert (ours.int() - theirs.int()).abs().max() <= (1 if config.crop == "inception" else 0)


@pytest.mark.slow
def test_inception_crop_draws_the_same_boxes_on_both_paths():
    measured = []
    for images in both_paths(coordinates(64, 3), Augment(crop="inception", min_area=0.1, flip=True), (16, 16)):
        rows, columns = images[:, 0, :, 8].double(), images[:, 1, 8].double()
        measure = {}
        for name, line in (("height", rows), ("width", columns)):
            # In the middle of the box the ramp stays a ramp: 3 levels per pixel of the original.
            slope = (line[:, 12] - line[:, 3]) / 9
            first = line[:, 3] - 3.5 * slope
            measure[name] = (slope.abs() * 16 / 3).numpy()
            measure[f"{name} centre"] = ((first + 8 * slope - 30) / 3).numpy()
        measure["area"] = measure["height"] * measure["width"]
        measure["flip"] = (columns[:, 12] < columns[:, 3]).numpy().astype(float)
        measured.append(measure)
    for name in measured[0]:
        assert ks_distance(measured[0][name], measured[1][name]) < KS_LIMIT, name
    assert measured[0]["flip"].mean() == pytest.approx(0.5, abs=0.05)
    assert measured[0]["area"].std() > 0.1 * 64**2


@pytest.mark.slow
def test_pad_crop_shifts_uniformly_on_both_paths():
    for images in both_paths(coordinates(16, 10), Augment(crop="pad", pad=2), (16, 16)):
        shifts = torch.stack([(images[:, c, 8, 8].long() - 30) // 10 - 8 for c in (0, 1)])
        assert set(shifts.unique().tolist()) == {-2, -1, 0, 1, 2}
        joint = np.histogram2d(*shifts.numpy(), bins=5)[0] / NUM_IMAGES
        assert np.abs(joint - 1 / 25).max() < 4.5 * (1 / 25 / NUM_IMAGES) ** 0.5


@pytest.mark.slow
def test_resmall_crop_takes_every_window_equally_often_on_both_paths():
    for images in both_paths(coordinates(16, 10), Augment(crop="resmall"), (14, 14)):
        corners = torch.stack([(images[:, c, 0, 0].long() - 30) // 10 for c in (0, 1)])
        expected = coordinates(16, 10)
        for image, (top, left) in zip(images[:50], corners.T[:50].tolist(), strict=True):
            assert torch.equal(image, expected[:, top : top + 14, left : left + 14])
        joint = np.histogram2d(*corners.numpy(), bins=3, range=[(-0.5, 2.5)] * 2)[0] / NUM_IMAGES
        assert joint.sum() == 1 and np.abs(joint - 1 / 9).max() < 4.5 * (1 / 9 / NUM_IMAGES) ** 0.5


@pytest.mark.slow
def test_erased_boxes_have_the_same_distribution_on_both_paths():
    measured = []
    for images in both_paths(torch.full((3, 32, 24), 200, dtype=torch.uint8), Augment(erase_prob=0.6), (32, 24)):
        mask = images == 127
        assert torch.equal(mask[:, 0], mask[:, 1]) and torch.equal(mask[:, 0], mask[:, 2])
        assert torch.equal(images, torch.where(mask, 127, 200).to(torch.uint8))
        rows, columns = mask[:, 0].any(2).float(), mask[:, 0].any(1).float()
        erased = rows.any(1)
        assert torch.equal(mask[:, 0].sum((1, 2)), (rows.sum(1) * columns.sum(1)).long())  # one whole box each
        measured.append(
            {
                "erased": erased.double().numpy(),
                "height": rows.sum(1)[erased].numpy(),
                "width": columns.sum(1)[erased].numpy(),
                "top": rows.argmax(1)[erased].numpy(),
                "left": columns.argmax(1)[erased].numpy(),
            }
        )
    for name in measured[0]:
        assert ks_distance(measured[0][name], measured[1][name]) < KS_LIMIT / 0.6**0.5, name
    assert measured[0]["erased"].mean() == pytest.approx(0.6, abs=0.05)


def test_flip_mirrors_about_half_of_the_images():
    images = noise(1, 3, 6, 6).expand(2000, -1, -1, -1)
    out = augment_batch(images, keys(2000), Augment(flip=True), (6, 6))
    flipped = (out == images.flip(3)).flatten(1).all(1)
    kept = (out == images).flatten(1).all(1)
    assert torch.equal(flipped, ~kept)
    assert flipped.float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_an_images_augmentation_does_not_depend_on_its_batch():
    images = noise(8, 3, 20, 20)
    config = Augment(crop="inception", flip=True, erase_prob=0.5)
    whole = augment_batch(images, keys(8), config, (12, 12))
    alone = torch.cat([augment_batch(images[i : i + 1], keys(8)[i : i + 1], config, (12, 12)) for i in range(8)])
    assert torch.equal(whole, alone)
    assert not torch.equal(augment_batch(images, keys(8, seed=1), config, (12, 12)), whole)


def test_no_augmentation_changes_nothing():
    images = noise(4, 3, 6, 6)
    assert torch.equal(augment_batch(images, keys(4), Augment(), (6, 6)), images)


def test_crop_flip_and_erasing_use_different_random_numbers():
    image = coordinates(32, 4)[None].expand(2000, -1, -1, -1)
    shifts, flips, erasures = (
        augment_batch(image, keys(2000), config, (32, 32))
        for config in (Augment(crop="pad", pad=4), Augment(flip=True), Augment(erase_prob=0.5))
    )
    drawn = torch.stack(
        [
            shifts[:, 0, 16, 16].double(),
            shifts[:, 1, 16, 16].double(),
            (flips[:, 1, 0, 0] > flips[:, 1, 0, 31]).double(),
            (erasures[:, 2] == 127).flatten(1).any(1).double(),
        ]
    )
    assert (torch.corrcoef(drawn) - torch.eye(4)).abs().max() < 4 / 2000**0.5


class _Copies(TorchDispatchMode):
    """Notes whether each copy to another device waits for it."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and kwargs.get("device") not in (None, args[0].device):
            self.waits.append(not kwargs.get("non_blocking", False))
        return func(*args, **kwargs)


@pytest.mark.parametrize("config", [
    Augment(crop="pad", pad=2, flip=True, cutmix_prob=0.5, erase_prob=0.5),
    Augment(crop="inception", flip=True, mixup=0.2),
])  # fmt: skip
def test_no_copy_waits_for_the_device(config):
    split = Split([np.zeros((8, 8, 3), np.uint8)] * 4, np.arange(4), [f"{i}" for i in range(4)])
    preprocessing = Preprocessing((8, 8))
    device = torch.device("meta")  # as a GPU, from which nothing can be read before it has computed it
    data = train_data(split, config, preprocessing, seed=0, device=device, workers=0)
    batches = data.batches(0, 4)
    with _Copies() as copies:
        batch = next(batches)
        targets = torch.zeros(4, 10, device=device)
        mixed, _ = mix(normalise(batch.images, preprocessing), targets, batch.keys, config)
    assert mixed.device == device and mixed.shape == (4, 3, 8, 8)
    assert copies.waits and not any(copies.waits)
