"""The table of published weights: its own sums, and timm's word where timm has one."""

import pytest
import torch

from mixonomy.models import SPECS, create
from mixonomy.models.published import PUBLISHED

MIXERS = [each for each in PUBLISHED if each.model in SPECS]


def test_every_published_mixer_is_there_once():
    names = [each.name for each in PUBLISHED]
    assert len(names) == len(set(names))
    google = [
        name.removeprefix("https://storage.googleapis.com/mixer_models/") for name in names if "googleapis" in name
    ]
    assert sorted(google) == sorted(
        [f"{folder}/Mixer-{size}_16.npz" for folder in ("imagenet1k", "imagenet21k") for size in "BL"]
        + ["sam/Mixer-B_16.npz", "sam/Mixer-B_32.npz"]
        + [f"gsam/Mixer-{size}.npz" for size in ("B_16", "B_32", "S_16", "S_32", "S_8")]
    )


@pytest.mark.parametrize("each", MIXERS, ids=lambda each: each.name)
def test_parameters_and_size_of_the_file_are_those_of_the_model(each):
    with torch.device("meta"):
        model = create(each.model, num_classes=each.num_classes, image_size=each.image_size)
    assert each.params == sum(parameter.numel() for parameter in model.parameters())
    if each.file_mib is not None:
        assert each.params * 4 / 2**20 == pytest.approx(each.file_mib, abs=0.1), "float32 and a few names"


def test_tags_that_say_21k_then_1k_carry_a_warning_and_the_accuracy_of_1k_alone():
    found = {
        each.name: each for each in PUBLISHED if each.name.endswith("goog_in21k_ft_in1k") and "mixer_" in each.name
    }
    assert set(found) == {f"timm:mixer_{size}16_224.goog_in21k_ft_in1k" for size in "bl"}
    for each in found.values():
        assert "ImageNet-1k alone" in each.note and each.reported[0].top1 < 77


@pytest.mark.slow
@pytest.mark.parametrize("each", [each for each in PUBLISHED if each.name.startswith("timm:")], ids=lambda e: e.name)
def test_facts_are_those_of_timms_own_table(each):
    from timm.models import get_pretrained_cfg

    cfg = get_pretrained_cfg(each.name.removeprefix("timm:"), allow_unregistered=False)
    assert cfg is not None and cfg.hf_hub_id == each.name.replace("timm:", "timm/", 1)
    assert (cfg.num_classes, cfg.input_size) == (each.num_classes, (3, each.image_size, each.image_size))
    pixels = {0.5: "[-1, 1]", 0.0: "[0, 1]", 0.485: "ImageNet mean and deviation"}[cfg.mean[0]]
    assert (pixels, cfg.crop_pct) == (each.pixels, each.crop)
    assert each.licence.lower() == f"{cfg.license} (timm)"
