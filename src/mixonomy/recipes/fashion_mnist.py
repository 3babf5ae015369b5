"""A Mixer of 0.4 M parameters on Fashion-MNIST, from scratch, sized for a quarter of an hour of two CPU cores.

    mixonomy train --data fashion-mnist

Scores: README and docs, from results/recipes.jsonl.
Source: none; sizes and rates were chosen on the validation slice.
"""

from mixonomy.recipe import Augment, Data, Model, Optim, Recipe

recipe = Recipe(
    name="fashion_mnist",
    data=Data(source="fashion-mnist", val_share=0.02, eval_crop="squash"),
    model=Model(
        name="mixer", patch_size=4, hidden_dim=128, num_blocks=6, tokens_mlp_dim=96, channels_mlp_dim=192, gelu="erf"
    ),
    image_size=28,
    augment=Augment(crop="pad", pad=1, flip=True, cutmix_prob=0.3),
    optim=Optim(name="muon", lr=0.02, rest_lr=1e-3, weight_decay=0.1, schedule="linear"),
    duration="20 epochs",
    batch_size=128,
    label_smoothing=0.1,
    keep="last",
)
