"""Published weights: every Mixer checkpoint, and the main ones of the families it is compared with. Data, no download.

Nothing here was measured by us. A percentage stands with the one who reported it; where nobody did, there is none.
"""

from dataclasses import dataclass

BUCKET = "https://storage.googleapis.com/mixer_models"


@dataclass(frozen=True)
class Reported:
    """A share of right answers that somebody reported.

    Args:
      data: such as "imagenet1k".
      top1: in per cent.
      source: who reported it.
      note: what it was measured on, where that is not the file as it is.
    """

    data: str
    top1: float
    source: str
    note: str = ""


@dataclass(frozen=True)
class Published:
    """Weights that anybody can have.

    Args:
      name: for `mixonomy.load`; an address is a file to download by hand, whose path is then given.
      model: our name, or timm's where the model is behind the adapter.
      trained_on: data, and how where it matters.
      num_classes: K of the head; 0 where there is none.
      image_size: pixels a side.
      params: with the head; None where it was not counted.
      pixels: what the model reads.
      crop: shorter side before the centre is cut, as a share: crop_pct.
      gelu: "tanh", "erf", or "-" for another activation.
      licence: SPDX, and who states it.
      reported: accuracies.
      note: traps, several joined by "; ".
      file_mib: size of the file, MiB, where published.
    """

    name: str
    model: str
    trained_on: str
    num_classes: int = 1000
    image_size: int = 224
    params: int | None = None
    pixels: str = "[-1, 1]"
    crop: float = 0.875
    gelu: str = "erf"
    licence: str = "Apache-2.0 (timm)"
    reported: tuple[Reported, ...] = ()
    note: str = ""
    file_mib: float | None = None


_UNIT = "[0, 1]"
_IMAGENET = "ImageNet mean and deviation"
_PAPER = "MLP-Mixer paper, table 3"
_TIMM = "timm results/results-imagenet.csv"
_GOOGLE = "Apache-2.0 (the repository google-research/vision_transformer; the bucket states none)"

_TRAP = (
    "the tag says 21k and then 1k, but these are almost certainly the weights trained on ImageNet-1k alone: Google "
    "published no Mixer of 21k and then 1k, timm's own docstrings call them 1k-pretrained, and their accuracy is close "
    "to the paper's 1k-only row and far from its 21k row"
)
_HEAD = "the accuracies are after fine-tuning, and the published head is that of 21,843 classes"
_ERF = "trained with the tanh form of GELU and published for the erf form: almost the same answers"


def _of_mixers() -> tuple[Published, ...]:
    only_1k, in21k = "ImageNet-1k, 300 epochs", "ImageNet-21k, 300 epochs"
    b16, l16 = (76.44, _PAPER), (71.76, _PAPER)
    cifar = "vision_transformer README"
    tuned = "fine-tuned on CIFAR-10"
    return (
        Published(
            f"{BUCKET}/imagenet1k/Mixer-B_16.npz",
            gelu="tanh",
            licence=_GOOGLE,
            model="mixer-b/16",
            trained_on=only_1k,
            num_classes=1000,
            params=59_880_472,
            file_mib=228.47,
            reported=(Reported("imagenet1k", *b16), Reported("cifar10", 96.72, cifar, tuned)),
        ),
        Published(
            f"{BUCKET}/imagenet1k/Mixer-L_16.npz",
            gelu="tanh",
            licence=_GOOGLE,
            model="mixer-l/16",
            trained_on=only_1k,
            num_classes=1000,
            params=208_196_168,
            file_mib=794.29,
            reported=(Reported("imagenet1k", *l16), Reported("cifar10", 96.59, cifar, tuned)),
        ),
        Published(
            f"{BUCKET}/imagenet21k/Mixer-B_16.npz",
            gelu="tanh",
            licence=_GOOGLE,
            model="mixer-b/16",
            trained_on=in21k,
            num_classes=21_843,
            params=75_908_739,
            file_mib=289.61,
            note=_HEAD,
            reported=(Reported("imagenet1k", 80.64, _PAPER, "fine-tuned"), Reported("cifar10", 96.82, cifar, tuned)),
        ),
        Published(
            f"{BUCKET}/imagenet21k/Mixer-L_16.npz",
            gelu="tanh",
            licence=_GOOGLE,
            model="mixer-l/16",
            trained_on=in21k,
            num_classes=21_843,
            params=229_560_243,
            file_mib=875.78,
            note=_HEAD,
            reported=(Reported("imagenet1k", 82.89, _PAPER, "fine-tuned"), Reported("cifar10", 98.34, cifar, tuned)),
        ),
        Published(
            f"{BUCKET}/sam/Mixer-B_16.npz",
            gelu="tanh",
            licence=_GOOGLE,
            model="mixer-b/16",
            trained_on="ImageNet-1k with SAM",
            num_classes=1000,
            params=59_880_472,
            file_mib=228.47,
            reported=(
                Reported("imagenet1k", 77.36, "leondgarse/keras_cv_attention_models README"),
                Reported("imagenet1k", 75.58, "sayakpaul/mlpmixer-jax2tf README", "other preprocessing"),
            ),
        ),
        Published(
            f"{BUCKET}/sam/Mixer-B_32.npz",
            gelu="tanh",
            licence=_GOOGLE,
            model="mixer-b/32",
            trained_on="ImageNet-1k with SAM",
            num_classes=1000,
            params=60_293_428,
            file_mib=230.04,
            reported=(Reported("imagenet1k", 72.47, "leondgarse/keras_cv_attention_models README"),),
        ),
        *(
            Published(
                f"{BUCKET}/gsam/Mixer-{file}.npz",
                gelu="tanh",
                licence=_GOOGLE,
                model=model,
                trained_on="ImageNet-1k with GSAM",
                num_classes=1000,
                params=params,
                file_mib=mib,
                note=note,
            )
            for file, model, params, mib, note in (
                ("B_16", "mixer-b/16", 59_880_472, 228.47, ""),
                ("B_32", "mixer-b/32", 60_293_428, 230.04, ""),
                ("S_16", "mixer-s/16", 18_528_264, 70.71, ""),
                ("S_32", "mixer-s/32", 19_104_624, 72.91, ""),
                ("S_8", "mixer", 20_646_504, 78.79, "patches of 8 pixels, which the paper has no model of"),
            )
        ),
        Published(
            "timm:mixer_b16_224.goog_in21k_ft_in1k",
            "mixer-b/16",
            trained_on="ImageNet-1k, see the note",
            params=59_880_472,
            note=f"{_TRAP}; {_ERF}",
            reported=(Reported("imagenet1k", 76.616, _TIMM),),
        ),
        Published(
            "timm:mixer_l16_224.goog_in21k_ft_in1k",
            "mixer-l/16",
            trained_on="ImageNet-1k, see the note",
            params=208_196_168,
            note=f"{_TRAP}; {_ERF}",
            reported=(Reported("imagenet1k", 72.084, _TIMM),),
        ),
        Published(
            "timm:mixer_b16_224.goog_in21k",
            "mixer-b/16",
            trained_on=in21k,
            num_classes=21_843,
            params=75_908_739,
            note=_ERF,
        ),
        Published(
            "timm:mixer_l16_224.goog_in21k",
            "mixer-l/16",
            trained_on=in21k,
            num_classes=21_843,
            params=229_560_243,
            note=_ERF,
        ),
        Published(
            "timm:mixer_b16_224.miil_in21k",
            "mixer-b/16",
            trained_on="ImageNet-21K-P (MIIL)",
            num_classes=11_221,
            params=67_740_421,
            pixels=_UNIT,
        ),
        Published(
            "timm:mixer_b16_224.miil_in21k_ft_in1k",
            "mixer-b/16",
            trained_on="ImageNet-21K-P, then ImageNet-1k (MIIL)",
            params=59_880_472,
            pixels=_UNIT,
            reported=(Reported("imagenet1k", 82.314, _TIMM),),
        ),
        Published(
            "timm:gmixer_24_224.ra3_in1k",
            "timm:gmixer_24_224",
            trained_on="ImageNet-1k",
            pixels=_IMAGENET,
            gelu="-",
            note="a Mixer with SwiGLU MLPs",
            reported=(Reported("imagenet1k", 78.048, _TIMM),),
        ),
    )


def _of_others() -> tuple[Published, ...]:
    in21k, then_1k = "ImageNet-21k (augreg)", "ImageNet-21k, then ImageNet-1k (augreg)"
    resmlp = {
        f"resmlp_{size}_224.fb_{tag}": (size, text)
        for size in ("12", "24", "36", "big_24")
        for tag, text in (("in1k", "ImageNet-1k"), ("distilled_in1k", "ImageNet-1k, distilled"))
    }
    convmixer = (
        ("convmixer_1536_20.in1k", "convmixer-1536/20", 51_625_960, 81.382, "", "erf"),
        ("convmixer_768_32.in1k", "convmixer-768/32", 21_110_248, 80.158, "ReLU instead of GELU", "-"),
        ("convmixer_1024_20_ks9_p14.in1k", "convmixer-1024/20", 24_383_464, 76.944, "", "erf"),
    )
    return (
        *(
            Published(
                f"timm:vit_{size}_patch{patch}_224.augreg_{tag}",
                f"vit-{letter}/{patch}",
                trained_on=text,
                num_classes=classes,
                crop=0.9,
            )
            for size, letter, patch in (
                ("tiny", "ti", 16),
                ("small", "s", 32),
                ("small", "s", 16),
                ("base", "b", 32),
                ("base", "b", 16),
                ("large", "l", 16),
            )
            for tag, text, classes in (("in21k_ft_in1k", then_1k, 1000), ("in21k", in21k, 21_843))
        ),
        Published("timm:vit_base_patch16_224.augreg_in1k", "vit-b/16", trained_on="ImageNet-1k (augreg)", crop=0.9),
        Published("timm:vit_base_patch32_224.sam_in1k", "vit-b/32", trained_on="ImageNet-1k with SAM", crop=0.9),
        Published("timm:vit_base_patch16_224.sam_in1k", "vit-b/16", trained_on="ImageNet-1k with SAM", crop=0.9),
        *(
            Published(
                f"timm:{name}",
                "resmlp-big-24" if size == "big_24" else f"resmlp-{size}",
                trained_on=text,
                pixels=_IMAGENET,
            )
            for name, (size, text) in resmlp.items()
        ),
        Published(
            "timm:resmlp_big_24_224.fb_in22k_ft_in1k",
            "resmlp-big-24",
            trained_on="ImageNet-22k, then ImageNet-1k",
            pixels=_IMAGENET,
        ),
        Published("timm:gmlp_s16_224.ra3_in1k", "gmlp-s/16", trained_on="ImageNet-1k"),
        *(
            Published(
                f"timm:{name}",
                model,
                trained_on="ImageNet-1k",
                params=params,
                pixels=_IMAGENET,
                crop=0.96,
                gelu=gelu,
                licence="MIT (timm)",
                note=note,
                reported=(Reported("imagenet1k", top1, _TIMM),),
            )
            for name, model, params, top1, note, gelu in convmixer
        ),
        Published(
            "timm:resnetv2_50x1_bit.goog_in21k_ft_in1k",
            "timm:resnetv2_50x1_bit",
            trained_on="ImageNet-21k, then ImageNet-1k (BiT-M)",
            image_size=448,
            crop=1.0,
            gelu="-",
            reported=(Reported("imagenet1k", 80.386, _TIMM),),
        ),
        Published(
            "timm:resnetv2_101x1_bit.goog_in21k_ft_in1k",
            "timm:resnetv2_101x1_bit",
            trained_on="ImageNet-21k, then ImageNet-1k (BiT-M)",
            image_size=448,
            crop=1.0,
            gelu="-",
            reported=(Reported("imagenet1k", 82.332, _TIMM),),
        ),
        Published(
            "timm:resnetv2_152x4_bit.goog_in21k_ft_in1k",
            "timm:resnetv2_152x4_bit",
            trained_on="ImageNet-21k, then ImageNet-1k (BiT-M)",
            image_size=480,
            crop=1.0,
            gelu="-",
            reported=(Reported("imagenet1k", 84.936, _TIMM),),
        ),
        Published(
            "timm:botnet26t_256.c1_in1k",
            "timm:botnet26t_256",
            trained_on="ImageNet-1k",
            image_size=256,
            crop=0.95,
            pixels=_IMAGENET,
            gelu="-",
            reported=(Reported("imagenet1k", 79.256, _TIMM),),
        ),
        Published(
            "timm:dm_nfnet_f0.dm_in1k",
            "timm:dm_nfnet_f0",
            trained_on="ImageNet-1k",
            pixels=_IMAGENET,
            gelu="erf",
            image_size=192,
            crop=0.9,
            reported=(Reported("imagenet1k", 83.468, _TIMM, "at 256 pixels"),),
        ),
    )


PUBLISHED = (*_of_mixers(), *_of_others())
"""Source: vision_transformer vit_jax.ipynb and README (bucket, sizes); timm models/*.py (tags, pixels, licence)."""
