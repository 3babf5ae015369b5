"""Numbers of maps, on maps whose numbers are known."""

import math

import pytest
import torch

from mixonomy.models import create
from mixonomy.studies import maps

SIZES = {"patch_size": 2, "hidden_dim": 8, "num_blocks": 2}


def waves(rows=8, columns=8):
    """The cosine of each number of half periods along the columns."""
    place = torch.arange(columns, dtype=torch.float64)
    return torch.stack([torch.cos(math.pi * k * (place + 0.5) / columns).expand(rows, columns) for k in range(columns)])


def test_frequency_of_a_cosine_is_its_own_and_of_noise_that_of_all_terms():
    expected = torch.arange(8, dtype=torch.float64) / 16
    torch.testing.assert_close(maps.frequency(waves()[:, None]), expected)
    noise = torch.randn(4000, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = torch.arange(8, dtype=torch.float64) / 16
    all_terms = torch.hypot(steps[:, None], steps[None]).mean()
    assert float(maps.frequency(noise).mean()) == pytest.approx(float(all_terms), abs=0.002)


def test_mirror_is_one_for_even_and_odd_maps():
    torch.testing.assert_close(maps.mirror(waves()[:, None]), torch.ones(8, dtype=torch.float64))
    corner = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    corner[0, 0, 0, 0] = 1.0
    assert float(maps.mirror(corner)) == 0.0


def test_radius_is_one_for_a_constant_map_and_zero_for_a_single_place():
    constant, dot = torch.ones(1, 1, 6, 9, dtype=torch.float64), torch.zeros(1, 1, 6, 9, dtype=torch.float64)
    dot[0, 0, 2, 5] = -3.0
    torch.testing.assert_close(maps.radius(torch.cat([constant, dot])), torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_extremes_find_the_negative_and_the_copy():
    x, y = torch.eye(4, dtype=torch.float64)[:2]
    opposite, alike = maps.extremes(torch.stack([x, -x, y, 2 * y]))
    torch.testing.assert_close(opposite, torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(alike, torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64))


def test_effective_rank_counts_equal_singular_values():
    assert maps.effective_rank(torch.diag(torch.tensor([2.0, 2.0, 2.0, 0.0]))) == pytest.approx(3.0)


def test_units_are_ordered_by_frequency_and_each_is_followed_by_its_opposite():
    low, middle, high = waves()[[1, 3, 6]]
    order = maps.paired_order(torch.stack([high, -low, middle, low, -high, -middle]))
    assert [set(order[i : i + 2]) for i in (0, 2, 4)] == [{1, 3}, {2, 5}, {0, 4}]


def test_token_maps_are_the_weights_of_each_family():
    torch.manual_seed(0)
    mixer = create("mixer", image_size=(4, 6), tokens_mlp_dim=5, channels_mlp_dim=8, **SIZES)
    first, second = maps.token_maps(mixer, (2, 3))
    assert (first.name, second.name) == ("blocks.0.token_mixer", "blocks.1.token_mixer")
    layer = mixer.get_submodule(first.name)
    assert torch.equal(first.units.flatten(1).float(), layer.fc1.weight)
    assert torch.equal(first.written.flatten(1).float(), layer.fc2.weight.T)
    torch.testing.assert_close(first.mixing.float(), layer.fc2.weight @ layer.fc1.weight)
    resmlp = create("resmlp", image_size=4, channels_mlp_dim=8, **SIZES)
    assert maps.token_maps(resmlp, (2, 2))[0].mixing.shape == (4, 4)
    gmlp = create("gmlp", image_size=4, channels_mlp_dim=8, **SIZES)
    assert maps.token_maps(gmlp, (2, 2))[1].units.shape == (4, 2, 2)
    assert maps.token_maps(create("vit", image_size=4, num_heads=2, channels_mlp_dim=8, **SIZES), (2, 2)) == []
    assert maps.stem_kernels(mixer).shape == (8, 3, 2, 2)


def test_numbers_of_a_layer_are_means_over_its_units():
    found = maps.numbers_of(waves()[1:3], torch.eye(64, dtype=torch.float64))
    assert found.frequency == pytest.approx(1.5 / 16)
    assert found.mirror == pytest.approx(1.0) and found.rank == pytest.approx(1.0)
    assert found.opposite == pytest.approx(0.0) and found.mixing_rank == pytest.approx(1.0)


def test_trend_is_the_rank_correlation_with_depth():
    assert maps.depth_trend([0.1, 0.2, 0.9]) == pytest.approx(1.0)
    assert maps.depth_trend([3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    assert maps.depth_trend([1.0, 1.0, 1.0]) is None and maps.depth_trend([1.0, 2.0]) is None
