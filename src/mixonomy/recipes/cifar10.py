"""A Mixer of 0.7 M parameters on CIFAR-10, from scratch, sized for an hour of two CPU cores.

    mixonomy train --data cifar10

It overfits: in its one full run validation stood still for the last third while the training loss fell, and the score
misses what we aim for. The sizes came from short trials, which favoured them. Scores: README and docs, from
results/recipes.jsonl.
Source: none; sizes and rates were chosen on the validation slice.
"""

from mixonomy.recipe import Augment, Data, Model, Optim, Recipe

recipe = Recipe(
    name="cifar10",
    data=Data(source="cifar10", val_share=0.02, eval_crop="squash"),
    model=Model(
        name="mixer", patch_size=4, hidden_dim=128, num_blocks=8, tokens_mlp_dim=128, channels_mlp_dim=256, gelu="erf"
    ),
    image_size=32,
    augment=Augment(crop="pad", pad=4, flip=True),
    optim=Optim(name="muon", lr=0.03, rest_lr=1e-3, schedule="linear"),
    duration="19 epochs",
    batch_size=128,
    label_smoothing=0.1,
    keep="last",
)
