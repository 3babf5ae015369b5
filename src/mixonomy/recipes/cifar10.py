"""A Mixer of 1.1 M parameters on CIFAR-10, from scratch, sized for an hour of two CPU cores.

mixonomy train --data cifar10
"""

from mixonomy.recipe import Augment, Data, Model, Optim, Recipe

recipe = Recipe(
    name="cifar10",
    data=Data(source="cifar10", val_share=0.02, eval_crop="squash"),
    model=Model(
        name="mixer",
        patch_size=4,
        hidden_dim=128,
        num_blocks=8,
        tokens_mlp_dim=64,
        channels_mlp_dim=512,
        gelu="erf",
    ),
    image_size=32,
    augment=Augment(crop="pad", pad=4, flip=True),
    optim=Optim(name="muon", lr=0.02, rest_lr=1e-3, schedule="linear"),
    duration="14 epochs",
    batch_size=256,
    label_smoothing=0.1,
    keep="last",
)
