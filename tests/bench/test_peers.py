"""The same model in other libraries: twins compute what ours does."""

import pytest
import torch

from mixonomy.bench.peers import lucidrains_twin, randomise, timm_twin
from mixonomy.models import create

SIZES = {"patch_size": 4, "hidden_dim": 24, "num_blocks": 2, "tokens_mlp_dim": 10, "channels_mlp_dim": 36}


def model_of(name, **sizes):
    torch.manual_seed(0)
    model = create(name, num_classes=7, image_size=(8, 16), **sizes)
    randomise(model, seed=0)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("gelu", ["erf", "tanh"])
@pytest.mark.parametrize("twin", [timm_twin, lucidrains_twin])
def test_a_mixer_and_its_twin_agree(gelu, twin):
    if twin is lucidrains_twin:
        pytest.importorskip("mlp_mixer_pytorch")
    model, images = model_of("mixer", gelu=gelu, **SIZES), torch.randn(3, 3, 8, 16)
    theirs = twin(model)
    assert not theirs.training and not torch.equal(model(images)[0], model(images)[1])
    torch.testing.assert_close(theirs(images), model(images), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_vit_with_the_tanh_form_has_a_twin_in_timm():
    sizes = {"patch_size": 4, "hidden_dim": 24, "num_blocks": 1, "num_heads": 2, "channels_mlp_dim": 36}
    model, images = model_of("vit", gelu="tanh", **sizes), torch.randn(2, 3, 8, 16)
    torch.testing.assert_close(timm_twin(model)(images), model(images), rtol=1e-5, atol=1e-6)


def test_what_a_library_lacks_is_said():
    pool = model_of("pool", patch_size=4, hidden_dim=8, num_blocks=1, channels_mlp_dim=8, kernel_size=3)
    with pytest.raises(ValueError, match="timm has no model like pool"):
        timm_twin(pool)
    pytest.importorskip("mlp_mixer_pytorch")
    with pytest.raises(ValueError, match="has Mixers only"):
        lucidrains_twin(pool)


def test_no_weight_stays_zero():
    assert all((p != 0).all() for p in model_of("mixer", **SIZES).parameters())
