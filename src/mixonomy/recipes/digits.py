"""A small Mixer on the embedded handwritten digits: the first thing to try, no download.

    mixonomy train

Half a minute on two cores. Scores: README and docs, from results/recipes.jsonl.
Source: none; sizes and rates were chosen on the validation slice.
"""

from mixonomy.recipe import Augment, Data, Model, Optim, Recipe

recipe = Recipe(
    name="digits",
    data=Data(source="digits", val_share=0.1, eval_crop="squash"),
    model=Model(
        name="mixer",
        patch_size=2,
        hidden_dim=64,
        num_blocks=4,
        tokens_mlp_dim=32,
        channels_mlp_dim=256,
        gelu="erf",
    ),
    image_size=8,
    augment=Augment(crop="pad", pad=1),
    optim=Optim(name="adamw", lr=3e-3, weight_decay=0.05, schedule="cosine"),
    duration="60 epochs",
    batch_size=64,
    label_smoothing=0.1,
    eval_every="4 epochs",
)
