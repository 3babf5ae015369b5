"""Mixup and cutmix: labels are mixed exactly as pixels are.

Axes: B images, c image channels, H and W pixels, K classes.
"""

import numpy as np
import pytest
import torch

from mixonomy.data import stream
from mixonomy.data.mix import cutmix, mix, mixup
from mixonomy.recipe import Augment


def keys(count: int, seed: int = 0) -> np.ndarray:
    return stream.sample_keys(seed, np.zeros(count, np.int64), np.arange(count))


def one_image_per_class(count: int, size: tuple[int, int] = (12, 20)) -> tuple[torch.Tensor, torch.Tensor]:
    """Image i is i everywhere and of class i."""
    images = torch.arange(count, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 3, *size).clone()
    return images, torch.eye(count, dtype=torch.float64)


def test_mixup_mixes_each_image_and_its_label_with_the_one_before_by_one_weight():
    images, targets = torch.eye(5).view(5, 1, 1, 5).repeat(1, 3, 2, 1), torch.eye(5)
    mixed, mixed_targets = mixup(images, targets, beta=0.5, seed=3)
    own = mixed_targets.diagonal()
    assert (own == own[0]).all() and 0.5 <= own[0] < 1
    expected = own[0] * targets + (1 - own[0]) * targets.roll(1, 0)
    torch.testing.assert_close(mixed_targets, expected)
    torch.testing.assert_close(mixed[:, 0, 0], mixed_targets)  # pixels say which image they come from
    torch.testing.assert_close(mixed, mixed[:, :1, :1].expand_as(mixed))


@pytest.mark.parametrize("beta", [0.2, 1.0, 5.0])
def test_mixup_weight_is_the_larger_part_of_a_beta_draw(beta):
    images, targets = one_image_per_class(2)
    weights = [mixup(images, targets, beta=beta, seed=seed)[1][0, 0].item() for seed in range(2000)]
    draws = np.random.default_rng(9).beta(beta, beta, 200_000)
    assert np.mean(weights) == pytest.approx(np.maximum(draws, 1 - draws).mean(), abs=0.012)
    assert min(weights) >= 0.5


def test_mixup_of_a_recipe_is_a_function_of_the_first_key():
    images, targets = one_image_per_class(4)
    config = Augment(mixup=0.5)
    first = mix(images, targets, keys(4), config)
    again = mix(images, targets, keys(4), config)
    other = mix(images, targets, keys(4, seed=1), config)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


@pytest.mark.parametrize("size", [(12, 20), (7, 5), (1, 1)], ids=str)
def test_cutmix_label_weights_are_exactly_the_shares_of_pixels(size):
    images, targets = one_image_per_class(200, size)
    mixed, mixed_targets = cutmix(images, targets, keys(200), 0.8)
    shares = torch.stack([(mixed == i).double().mean((1, 2, 3)) for i in range(200)], dim=1)
    torch.testing.assert_close(mixed_targets, shares, rtol=0, atol=1e-12)
    torch.testing.assert_close(mixed_targets.sum(1), torch.ones(200, dtype=torch.float64), rtol=0, atol=1e-12)


def test_cutmix_pastes_a_box_of_the_image_before_at_the_same_place():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(50, 3, 12, 20, generator=generator)
    mixed, _ = cutmix(images, torch.eye(50), keys(50), 1.0)
    pasted = (mixed != images).any(1)
    assert torch.equal(mixed, torch.where(pasted[:, None], images.roll(1, 0), images))
    rows, columns = pasted.any(2).sum(1), pasted.any(1).sum(1)
    assert torch.equal(pasted.sum((1, 2)), rows * columns)  # one whole box


def test_cutmix_leaves_the_other_images_alone():
    images, targets = one_image_per_class(4000, (4, 4))
    _, mixed_targets = cutmix(images[:, :1], targets, keys(4000), 0.3)
    touched = (mixed_targets.diagonal() < 1).double().mean().item()
    untouched_boxes = 1 - touched / 0.3  # boxes too small to cover a pixel
    assert touched <= 0.33 and untouched_boxes < 0.4
    unchanged, unchanged_targets = cutmix(images[:, :1], targets, keys(4000), 0.0)
    assert torch.equal(unchanged, images[:, :1]) and torch.equal(unchanged_targets, targets)


def test_cutmix_covers_what_a_uniform_share_around_a_uniform_centre_covers():
    images, targets = one_image_per_class(3000, (32, 32))
    _, mixed_targets = cutmix(images[:, :1], targets, keys(3000), 1.0)
    pasted = 1 - mixed_targets.diagonal().numpy()
    rng = np.random.default_rng(0)
    side = np.sqrt(rng.random(200_000))[:, None] / 2
    centre = rng.random((200_000, 2))
    expected = (np.minimum(centre + side, 1) - np.maximum(centre - side, 0)).prod(1)
    assert pasted.mean() == pytest.approx(expected.mean(), abs=0.015)
    assert np.quantile(pasted, 0.9) == pytest.approx(np.quantile(expected, 0.9), abs=0.03)


def test_recipe_without_mixing_returns_the_batch_itself():
    images, targets = one_image_per_class(3)
    mixed, mixed_targets = mix(images, targets, keys(3), Augment(flip=True))
    assert mixed is images and mixed_targets is targets
