"""Where a classifier looked, against classifiers whose answer is known."""

import pytest
import torch
from torch import nn

from mixonomy.evals.saliency import input_gradient, occlusion, token_unit_activity
from mixonomy.models import create


class OneWindow(nn.Module):
    """Class 1 counts the light in rows 2 and 3, columns 4 and 5; class 0 nothing."""

    def forward(self, images):
        light = images[:, :, 2:4, 4:6].sum((1, 2, 3))
        return torch.stack([torch.zeros_like(light), light], 1)


def test_gradient_is_one_where_the_class_counts_light_and_zero_elsewhere():
    found = input_gradient(OneWindow(), torch.ones(2, 3, 8, 8))
    expected = torch.zeros(2, 8, 8)
    expected[:, 2:4, 4:6] = 1.0
    assert torch.equal(found, expected)
    assert not input_gradient(OneWindow(), torch.ones(1, 3, 8, 8), torch.tensor([0])).any()


def test_occlusion_takes_the_probability_where_the_class_looks():
    image = torch.ones(3, 8, 8)
    found = occlusion(OneWindow(), image, 2)
    whole = torch.tensor([0.0, 12.0]).softmax(0)[1]
    expected = torch.zeros(4, 4)
    expected[1, 2] = whole - 0.5  # all of the light hidden: both logits are zero
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert occlusion(OneWindow(), image, 2, stride=1).shape == (7, 7)
    assert occlusion(OneWindow(), image, 2, label=0)[1, 2] == pytest.approx(0.5 - float(whole), abs=1e-6)
    with pytest.raises(ValueError, match="the window is 9 pixels; give 1 to 8"):
        occlusion(OneWindow(), image, 9)
    with pytest.raises(ValueError, match="the stride is 0 pixels"):
        occlusion(OneWindow(), image, 2, stride=0)


def test_activity_is_that_of_the_hidden_units_and_the_model_stays_as_it_was():
    torch.manual_seed(0)
    sizes = {"patch_size": 4, "hidden_dim": 6, "num_blocks": 2, "tokens_mlp_dim": 5, "channels_mlp_dim": 8}
    model = create("mixer", num_classes=3, image_size=8, **sizes).train()
    images = torch.randn(2, 3, 8, 8)
    found = token_unit_activity(model, images)
    assert list(found) == ["blocks.0.token_mixer", "blocks.1.token_mixer"]
    block = model.get_submodule("blocks.0")
    tokens = block.get_submodule("norm1")(model.get_submodule("stem")(images))
    mixer = block.get_submodule("token_mixer")
    hidden = nn.functional.gelu(
        torch.einsum("us,bsc->buc", mixer.fc1.weight, tokens) + mixer.fc1.bias[:, None], approximate="tanh"
    )
    torch.testing.assert_close(found["blocks.0.token_mixer"], hidden.square().mean(2).sqrt())
    assert model.training and not token_unit_activity(OneWindow(), images)
    assert all(p.grad is None for p in model.parameters())
