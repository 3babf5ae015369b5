"""A Mixer on very many weakly labelled images, few epochs, B/16 if --model names no other: JFT-300M in the paper.

    mixonomy train --recipe jft --data shards:my_weak_labels --model mixer-h/14

JFT-300M is private; any data will do whose images have one label or several (then the head starts from how
frequent each is). Length and rate differ by size. So many images need no other regularisation than crops, flips and
weight decay.
Published scores after fine-tuning on ImageNet-1k at 224 pixels (paper, table 3): S/16 73.83, B/16 80.00, L/16 84.82,
H/14 86.32 % top-1. Not run here.
Source: MLP-Mixer paper, section 3 and table 4, rows 5 to 8 (L: the longer of its two lengths); the sigmoid loss is
big_vision's for ImageNet (configs/mlp_mixer_i1k.py), the paper does not name its own. Own choices, measured by nobody:
one image in a thousand held out, and scored every 10,000 steps; a head that starts at zero where images have one label.
"""

from typing import NamedTuple

from mixonomy.recipe import Augment, Data, Model, Optim, Recipe, changed
from mixonomy.recipes.imagenet21k import size_of


class Row(NamedTuple):
    """What table 4 says of a size."""

    epochs: int
    lr: float


ROWS = {"s": Row(5, 3e-3), "b": Row(7, 3e-3), "l": Row(14, 1e-3), "h": Row(14, 1e-3)}

recipe = Recipe(
    name="jft",
    data=Data(source="jft300m", val_share=0.001, eval_crop="resmall"),
    model=Model(name="mixer-b/16", gelu="tanh", init="flax"),
    image_size=224,
    augment=Augment(crop="inception", min_area=0.05, flip=True),
    optim=Optim(
        name="adamw", lr=3e-3, weight_decay=0.03, beta1=0.9, beta2=0.999, warmup="10000 steps", clip=1.0,
        schedule="linear",
    ),
    duration="7 epochs",
    batch_size=4096,
    loss="sigmoid",
    eval_every="10000 steps",
    keep="last",
)  # fmt: skip


def for_model(name: str) -> Recipe:
    """The row of the table for a model, such as "mixer-l/16"."""
    row = ROWS[size_of(name)]
    return changed(recipe, model={"name": name}, optim={"lr": row.lr}, duration=f"{row.epochs} epochs")
