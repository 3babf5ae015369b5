"""Fine-tuning on data of one's own, of which there is little: AdamW in small batches, the head first.

    mixonomy train --init WEIGHTS --data my_images/

The head of zeros is trained alone for the first tenth, so that the features are not changed while it says nothing.
All values are our own choice; `benchmarks/transfer.py --parts small` holds the main ones against others.
Source: the head before the rest is Kumar et al. 2022, "Fine-tuning can distort pretrained features".
"""

from mixonomy.recipe import NO_WEIGHTS, Augment, Data, Optim, Recipe, changed

SAMPLES = 40_000
MIN_EPOCHS, MAX_EPOCHS = 3, 40

recipe = Recipe(
    name="folder_finetune",
    init=NO_WEIGHTS,
    data=Data(val_share=0.1, eval_crop="resmall"),
    image_size=None,
    augment=Augment(crop="inception", min_area=0.35, flip=True),
    optim=Optim(name="adamw", lr=1e-3, weight_decay=0.05, schedule="cosine", clip=1.0),
    freeze="10 %",
    duration="20 epochs",
    batch_size=64,
    label_smoothing=0.1,
)


def recipe_for(num_images: int) -> Recipe:
    """The recipe with a length that suits the number of training images."""
    epochs = min(max(round(SAMPLES / max(num_images, 1)), MIN_EPOCHS), MAX_EPOCHS)
    return changed(recipe, duration=f"{epochs} epochs")
