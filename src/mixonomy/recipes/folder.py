"""Any data set without a recipe of its own, from scratch: a Mixer of 1.7 M parameters at 64 pixels.

    mixonomy train --data my_images/

Fewer images are seen more often: the length is `SAMPLES` images in all, within bounds. Those that are seen very often
are mixed by cutmix: on Imagenette it lost at 14 epochs and won at 43 (results/folder.jsonl).
"""

from mixonomy.recipe import Augment, Data, Model, Optim, Recipe, changed

SAMPLES = 400_000
MIN_EPOCHS, MAX_EPOCHS = 10, 200
CUTMIX_EPOCHS = 40  # from which on images are mixed

recipe = Recipe(
    name="folder",
    data=Data(val_share=0.1),
    model=Model(
        name="mixer",
        patch_size=8,
        hidden_dim=192,
        num_blocks=8,
        tokens_mlp_dim=96,
        channels_mlp_dim=512,
        gelu="erf",
    ),
    image_size=64,
    augment=Augment(crop="inception", min_area=0.35, flip=True),
    optim=Optim(name="muon", lr=0.02, rest_lr=1e-3, weight_decay=0.1, schedule="linear"),
    duration="30 epochs",
    batch_size=128,
    label_smoothing=0.1,
)


def recipe_for(num_images: int) -> Recipe:
    """The recipe with a length, and mixing, that suit the number of training images."""
    epochs = min(max(round(SAMPLES / max(num_images, 1)), MIN_EPOCHS), MAX_EPOCHS)
    suited = changed(recipe, duration=f"{epochs} epochs")
    return changed(suited, augment={"cutmix_prob": 0.5}) if epochs >= CUTMIX_EPOCHS else suited
