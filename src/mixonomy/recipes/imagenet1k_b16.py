"""Mixer-B/16 on ImageNet-1k from scratch, 300 epochs: the paper's table 4, row one.

    mixonomy train --recipe imagenet1k_b16

Published score: 76.44 % top-1 (paper, table 3); big_vision reports 76.3 % after 2 h 11 min on a TPU v3-128.
Not run here.
RandAugment has the operations and the scale of big_vision (data/randaugment.py).
Source: MLP-Mixer paper, section 3 and table 4; big_vision configs/mlp_mixer_i1k.py for loss, head bias and
the validation slice. Weight decay is big_vision's 1e-4 over the peak rate, since torch multiplies it by the rate.
"""

from mixonomy.recipe import Augment, Data, Model, Optim, Recipe

recipe = Recipe(
    name="imagenet1k_b16",
    data=Data(source="imagenet1k", val_share=0.01, eval_crop="resmall"),
    model=Model(name="mixer-b/16", gelu="tanh", init="flax", dropout=0.0, drop_path=0.1, head_bias=-6.9),
    image_size=224,
    augment=Augment(
        crop="inception", min_area=0.05, flip=True, randaugment_layers=2, randaugment_magnitude=15, mixup=0.5
    ),
    optim=Optim(
        name="adamw",
        lr=1e-3,
        weight_decay=0.1,
        beta1=0.9,
        beta2=0.999,
        schedule="linear",
        end=1e-5,
        warmup="10000 steps",
        clip=1.0,
    ),
    duration="300 epochs",
    batch_size=4096,
    loss="sigmoid",
    keep="last",
)
