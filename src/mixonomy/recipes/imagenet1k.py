"""A Mixer on ImageNet-1k from scratch, 300 epochs, B/16 if --model names no other: the paper's table 4, rows 1 and 2.

    mixonomy train --data imagenet1k --model mixer-l/16

The table has one setting for B and L; S and H, which it does not have on this data, get it too.
Published scores (paper, table 3): B/16 76.44 % top-1, L/16 71.76: on so few images the larger model overfits.
big_vision reports 76.3 % for B/16 after 2 h 11 min on a TPU v3-128. Not run here.
RandAugment has the operations and the scale of big_vision (data/randaugment.py).
Source: MLP-Mixer paper, section 3 and table 4; big_vision configs/mlp_mixer_i1k.py for loss, head bias and
the validation slice. Weight decay is big_vision's 1e-4 over the peak rate, since torch multiplies it by the rate.
"""

from mixonomy.recipe import Augment, Data, Model, Optim, Recipe

recipe = Recipe(
    name="imagenet1k",
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
