"""Mixers of other shapes: where they coincide with the plain one, and what their layers mix."""

import pytest
import torch

from mixonomy.models.isotropic import Options
from mixonomy.models.mixer import Mixer, MixerSize
from mixonomy.nn import MixingPattern, TokenMLP, mixing_pattern
from mixonomy.studies.variants import GroupedTokenMLP, Shrink, UntiedTokenMLP, mixer_variant

SIZE = MixerSize(patch_size=2, hidden_dim=6, num_blocks=2, tokens_mlp_dim=5, channels_mlp_dim=7)
OPTIONS = Options((8, 8), num_classes=3, in_channels=1)
TOKENS = 16


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_untied_mlps_with_the_same_weights_are_the_tied_one():
    tied, untied = TokenMLP(TOKENS, 5).double(), UntiedTokenMLP(TOKENS, 5, 6).double()
    with torch.no_grad():
        for theirs, ours in ((untied.weight1, tied.fc1.weight), (untied.weight2, tied.fc2.weight)):
            theirs.copy_(ours.expand_as(theirs))
        for theirs, ours in ((untied.bias1, tied.fc1.bias), (untied.bias2, tied.fc2.bias)):
            theirs.copy_(ours[:, None].expand_as(theirs))
    x = torch.randn(2, TOKENS, 6, dtype=torch.float64)
    torch.testing.assert_close(untied(x), tied(x), rtol=0, atol=1e-12)
    assert sum(p.numel() for p in untied.parameters()) == 6 * sum(p.numel() for p in tied.parameters())


def test_one_group_is_the_plain_token_mlp():
    grouped = GroupedTokenMLP(TOKENS, 5, 6, 1, has_views=False)
    x = torch.randn(2, TOKENS, 6)
    torch.testing.assert_close(grouped(x), grouped.mlp(x), rtol=0, atol=1e-6)


def test_a_group_is_of_neighbouring_channels():
    grouped = GroupedTokenMLP(TOKENS, 5, 6, 2, has_views=False).double()
    x = torch.randn(1, TOKENS, 6, dtype=torch.float64)
    change = torch.zeros_like(x)
    change[0, 3, 2] = 1.0
    moved = (grouped(x + change) - grouped(x)).abs().sum((0, 1)) > 1e-9
    assert moved.tolist() == [False, False, True, True, False, False]


def test_views_that_change_nothing_are_the_groups():
    grouped = GroupedTokenMLP(TOKENS, 5, 6, 2, has_views=False)
    views = GroupedTokenMLP(TOKENS, 5, 6, 2, has_views=True)
    views.mlp.load_state_dict(grouped.mlp.state_dict())
    assert isinstance(views.views, torch.nn.Linear)
    torch.nn.init.eye_(views.views.weight)
    torch.nn.init.zeros_(views.views.bias)
    x = torch.randn(2, TOKENS, 6)
    torch.testing.assert_close(views(x), grouped(x), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="6 channels do not divide into groups of 4"):
        GroupedTokenMLP(TOKENS, 5, 6, 4, has_views=True)


@pytest.mark.parametrize(
    ("layer", "mixes_channels"),
    [
        (UntiedTokenMLP(TOKENS, 5, 6), False),
        (GroupedTokenMLP(TOKENS, 5, 6, 2, has_views=False), True),
        (Shrink(TOKENS, 4, 5, 6), True),  # by its norm
    ],
)
def test_what_they_mix(layer, mixes_channels):
    assert mixing_pattern(layer, torch.randn(2, TOKENS, 6)) == MixingPattern(locations=True, channels=mixes_channels)


def test_a_pyramid_has_a_quarter_of_the_tokens_from_the_middle_on():
    model = mixer_variant("pyramid", SIZE, OPTIONS)
    x = model.stem(torch.randn(2, 1, 8, 8))
    assert [x.shape[1], *((x := block(x)).shape[1] for block in model.blocks)] == [16, 16, 4, 4]


def test_each_variant_differs_from_the_mixer_as_its_name_says():
    base = sum(p.numel() for p in Mixer(SIZE, OPTIONS).parameters())

    def more(variant):
        return sum(p.numel() for p in mixer_variant(variant, SIZE, OPTIONS).parameters()) - base

    per_mlp = 2 * TOKENS * 5 + 5 + TOKENS
    assert more("untied") == 2 * 5 * per_mlp and more("no skip") == 0
    assert more("grouped") == 2 * (2 * TOKENS * 5 + TOKENS) and more("views") == more("grouped") + 2 * (6 * 6 + 6)
    assert more("positions") == TOKENS * 6 and more("no norm") == -(2 * 2 + 1) * 2 * 6
    with pytest.raises(ValueError, match="unknown variant 'no'"):
        mixer_variant("no", SIZE, OPTIONS)  # type: ignore[arg-type]


def test_without_skips_a_block_that_adds_nothing_gives_nothing():
    model = mixer_variant("no skip", SIZE, OPTIONS)
    with torch.no_grad():
        for name, parameter in model.blocks.named_parameters():
            if "channel_mixer.fc2" in name:
                parameter.zero_()
    assert not model.blocks(torch.randn(1, TOKENS, 6)).any()
