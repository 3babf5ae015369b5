"""Transforms of one image beside Pillow, and the per-sample path's random state."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from mixonomy.data import stream
from mixonomy.data.randaugment import randaugment
from mixonomy.data.transforms import TrainTransform, evaluation_crop
from mixonomy.preprocessing import Preprocessing
from mixonomy.recipe import Augment


def noise(height: int, width: int, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (channels, height, width), dtype=torch.uint8, generator=generator)


def resized_by_pillow(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    return torch.from_numpy(np.array(image.resize((width, height), Image.Resampling.BILINEAR))).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("crop", "size_in", "between", "corner"),
    [
        # 28 = 32 * 224 / 256: the shorter side becomes 32, the other keeps the ratio.
        ("resmall", (40, 60), (32, 48), (2, 10)),
        ("resmall", (60, 40), (48, 32), (10, 2)),
        ("resmall", (16, 20), (32, 40), (2, 6)),
        ("resize", (40, 60), (32, 32), (2, 2)),
        ("squash", (40, 60), (28, 28), (0, 0)),
    ],
)
def test_evaluation_crop_equals_pillows_resize_and_a_central_cut(crop, size_in, between, corner):
    pixels = noise(*size_in)
    out = evaluation_crop(pixels, Preprocessing((28, 28), crop=crop, resize=256 / 224))
    top, left = corner
    expected = resized_by_pillow(pixels, *between)[:, top : top + 28, left : left + 28]
    assert out.dtype == torch.uint8 and out.shape == (3, 28, 28)
    assert (out.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("crop", ["resmall", "resize", "squash"])
@pytest.mark.parametrize("size_in", [(1, 1), (3, 200), (200, 3), (28, 28), (500, 400)], ids=str)
@pytest.mark.parametrize("image_size", [(28, 28), (14, 42)], ids=str)
@pytest.mark.parametrize("resize", [1.0, 256 / 224, 1.01])
def test_evaluation_crop_always_gives_the_models_size(crop, size_in, image_size, resize):
    out = evaluation_crop(noise(*size_in), Preprocessing(image_size, crop=crop, resize=resize))
    assert out.shape == (3, *image_size)


def test_image_of_the_models_size_passes_unchanged_without_enlargement():
    pixels = noise(28, 28)
    for crop, resize in (("resmall", 1.0), ("resize", 1.0), ("squash", 256 / 224)):
        assert torch.equal(evaluation_crop(pixels, Preprocessing((28, 28), crop=crop, resize=resize)), pixels)


def test_resmall_keeps_the_shape_of_things_for_images_that_are_not_square():
    # A white square in the middle of a wide image stays square.
    pixels = torch.zeros(3, 40, 120, dtype=torch.uint8)
    pixels[:, 10:30, 50:70] = 255
    out = evaluation_crop(pixels, Preprocessing((20, 20), resize=1.0))
    assert torch.equal(out, out.transpose(1, 2)) and (out[0] > 127).sum() == 100


def augmented(transform: TrainTransform, pixels: torch.Tensor, key: int) -> torch.Tensor:
    """uint8 [c, H, W] -> [c, *image_size] by the per-sample path."""
    out = np.zeros((len(pixels), *transform.preprocessing.image_size), dtype=np.uint8)
    image = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
    [draws] = transform.draws(np.array([key], dtype=np.uint64))
    transform(image.numpy(), draws, out)
    return torch.from_numpy(out)


@pytest.mark.parametrize(
    "config",
    [
        Augment(crop="inception", flip=True),
        Augment(crop="pad", flip=True, erase_prob=1.0),
        Augment(crop="resmall", flip=True),
        Augment(randaugment_layers=2, randaugment_magnitude=15),
    ],
    ids=["inception", "pad", "resmall", "randaugment"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_per_sample_path_depends_on_pixels_and_key_alone(config, channels):
    half = (0.5,) * channels
    preprocessing = Preprocessing((16, 16), channels=channels, resize=1.0, mean=half, std=half)
    transform = TrainTransform(config, preprocessing)
    pixels = noise(20, 24, channels)
    torch.manual_seed(0)
    first = [augmented(transform, pixels, key) for key in (1, 2, 2**64 - 1)]
    torch.manual_seed(1)
    again = [augmented(transform, pixels, key) for key in (1, 2, 2**64 - 1)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])


def test_draws_of_an_image_do_not_depend_on_its_batch():
    config = Augment(crop="inception", flip=True, erase_prob=0.5, randaugment_layers=2)
    transform = TrainTransform(config, Preprocessing((16, 16)))
    keys = stream.sample_keys(0, np.zeros(9, np.int64), np.arange(9))
    assert transform.draws(keys) == [transform.draws(keys[i : i + 1])[0] for i in range(9)]


def test_per_sample_path_without_augmentation_is_the_evaluation_crop():
    preprocessing = Preprocessing((16, 16))
    pixels = noise(40, 50)
    out = augmented(TrainTransform(Augment(), preprocessing), pixels, 3)
    assert torch.equal(out, evaluation_crop(pixels, preprocessing))


def test_resmall_crop_is_a_window_of_what_evaluation_cuts_the_centre_of():
    # 21 and 24 are as 224 and 256: a wide image has more places to the right than down.
    transform = TrainTransform(Augment(crop="resmall"), Preprocessing((21, 21), crop="squash"))
    pixels, found = noise(30, 60), set()
    larger = resized_by_pillow(pixels, 24, 48)
    windows = larger.unfold(1, 21, 1).unfold(2, 21, 1).permute(1, 2, 0, 3, 4).int()  # [4, 28, 3, 21, 21]
    for key in range(200):
        errors = (windows - augmented(transform, pixels, key)).abs().amax((2, 3, 4))
        assert errors.min() <= 1
        found.add(divmod(int(errors.argmin()), 28))
    assert {top for top, _ in found} == {0, 1, 2, 3} and {0, 27} <= {left for _, left in found}


def test_randaugment_gets_the_recipes_numbers_after_crop_and_flip():
    preprocessing = Preprocessing((16, 16))
    plain = Augment(crop="inception", flip=True)
    config = plain.model_copy(update={"randaugment_layers": 3, "randaugment_magnitude": 7})
    transform = TrainTransform(config, preprocessing)
    for key in range(40):
        [draws] = transform.draws(np.array([key], dtype=np.uint64))
        assert len(draws.randaugment) == 3 * 4
        cropped = augmented(TrainTransform(plain, preprocessing), noise(40, 50), key)
        expected = randaugment(cropped.numpy(), draws.randaugment, 7)
        assert torch.equal(augmented(transform, noise(40, 50), key), torch.from_numpy(expected))


def test_stored_preprocessing_comes_back():
    preprocessing = Preprocessing((28, 14), channels=1, crop="resize", resize=1.1, mean=(0.2,), std=(0.3,))
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing


@pytest.mark.parametrize(
    "changes", [{"channels": 2, "mean": (0, 0), "std": (1, 1)}, {"mean": (0.5,)}, {"crop": "random"}]
)
def test_preprocessing_that_makes_no_sense_is_refused(changes):
    with pytest.raises(ValueError, match="give 1 or 3|unknown crop 'random'; use resmall"):
        Preprocessing((8, 8), **changes)


@pytest.mark.parametrize(
    ("shape", "bars"), [((20, 40), (4, 0)), ((40, 20), (0, 4)), ((7, 7), (0, 0)), ((1, 99), (7, 0))]
)
def test_pad_keeps_the_whole_image_and_its_shape(shape, bars):
    pixels = torch.full((3, *shape), 200, dtype=torch.uint8)
    out = evaluation_crop(pixels, Preprocessing((16, 16), crop="pad"))
    assert out.shape == (3, 16, 16)
    down, right = bars
    assert (out[:, down : 16 - down, right : 16 - right][:, :1] == 200).all()
    assert int((out == 127).sum()) == 3 * (256 - (16 - 2 * down - (shape[0] == 1)) * (16 - 2 * right))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("is_interleaved", [False, True], ids=["planes", "interleaved"])
@pytest.mark.parametrize("size_in", [(1, 1), (3, 200), (200, 3), (28, 28), (24, 41), (131, 97)], ids=str)
def test_evaluation_crop_is_torchvisions_bit_by_bit(channels, is_interleaved, size_in):
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("elsewhere torchvision may resize in floating point")
    pixels = noise(*size_in, channels)
    if is_interleaved:  # as Pillow and some decoders lay pixels out
        pixels = pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    height, width = size_in
    half = (0.5,) * channels
    for image_size, resize in (((28, 28), 256 / 224), ((14, 42), 1.1), ((9, 8), 1.0)):
        scale = max(image_size[0] * resize / height, image_size[1] * resize / width)
        between = {
            "resmall": [max(round(height * scale), image_size[0]), max(round(width * scale), image_size[1])],
            "resize": [max(round(side * resize), side) for side in image_size],
            "squash": list(image_size),
        }
        for crop, size in between.items():
            expected = v2.functional.center_crop(v2.functional.resize(pixels, size, antialias=True), list(image_size))
            preprocessing = Preprocessing(image_size, channels=channels, crop=crop, resize=resize, mean=half, std=half)
            assert torch.equal(evaluation_crop(pixels, preprocessing), expected), (crop, image_size)


@pytest.mark.parametrize("size_in", [(20, 40), (33, 20), (7, 7)], ids=str)
def test_padded_crop_is_torchvisions_bit_by_bit(size_in):
    pixels = noise(*size_in)
    scale = 16 / max(size_in)
    inner = v2.functional.resize(pixels, [round(side * scale) for side in size_in], antialias=True)
    down, right = 16 - inner.shape[1], 16 - inner.shape[2]
    bars = [right // 2, down // 2, right - right // 2, down - down // 2]
    expected = v2.functional.pad(inner, bars, fill=127)
    assert torch.equal(evaluation_crop(pixels, Preprocessing((16, 16), crop="pad")), expected)


def test_image_that_would_fill_the_memory_is_refused():
    with pytest.raises(ValueError, match="1x60000 pixels is too long and narrow for the crop resmall"):
        evaluation_crop(noise(1, 60_000), Preprocessing((224, 224)))
    assert evaluation_crop(noise(1, 60_000), Preprocessing((8, 8), crop="squash")).shape == (3, 8, 8)
