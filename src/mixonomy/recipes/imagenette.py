"""A Mixer on Imagenette at 128 pixels, from scratch, sized for an hour of two CPU cores with bf16 units.

    mixonomy train --data imagenette

A few thousand images and no pre-training call for strong crops, cutmix and many epochs, not for size. Results are in
docs/training.md; a ResNet-18 in the same time is ahead.
Source: none; rates, cutmix and weight decay are those of the CIFAR-10 recipe.
"""

from mixonomy.recipe import Augment, Data, Model, Optim, Recipe

recipe = Recipe(
    name="imagenette",
    data=Data(source="imagenette", val_share=0.1, eval_crop="squash"),
    model=Model(
        name="mixer",
        patch_size=16,
        hidden_dim=256,
        num_blocks=8,
        tokens_mlp_dim=64,
        channels_mlp_dim=768,
        gelu="erf",
    ),
    image_size=128,
    augment=Augment(crop="inception", min_area=0.25, flip=True, cutmix_prob=0.5),
    optim=Optim(name="muon", lr=0.02, rest_lr=1e-3, weight_decay=0.1, schedule="linear"),
    duration="100 epochs",
    batch_size=64,
    label_smoothing=0.1,
    keep="last",
)
