"""Fine-tuning of any trained model by the paper's protocol: SGD, batches of 512, a length by the number of images.

    mixonomy train --init WEIGHTS --data flowers102 --sweep optim.lr=0.003,0.01,0.03,0.06

The sweep is how the paper chooses the rate: on held-out images; then all images are trained on, and test is scored.
Source: MLP-Mixer paper, section 3 and appendix C, and ViT (Dosovitskiy et al. 2020), appendix B.1.1 and table 4:
SGD with momentum 0.9, gradients clipped at norm 1, cosine after a linear warm-up, no weight decay, a head of zeros,
500 steps on Pets and Flowers, 10,000 on CIFAR, 20,000 on ImageNet, and 10, 2 and 1 % of train to choose on. BiT's
hyper-rule (big_transfer bit_hyperrule.py) says the same of any data, by its number of images. vision_transformer
vit_jax/configs/common.py and big_vision configs/transfer.py: warm-ups of 500 and 100 steps, which the paper does not
give, and vit_jax/input_pipeline.py the crop and flip of training; softmax loss, as there.
"""

from typing import NamedTuple

from mixonomy.recipe import Augment, Data, Optim, Recipe, changed

NO_WEIGHTS = "WEIGHTS"  # stands for those that --init names


class Length(NamedTuple):
    """How long, how long of it to warm up, and how much of train to choose on."""

    steps: int
    warmup: int
    val_share: float


# Fewer training images than this -> length.
LENGTHS = {
    20_000: Length(500, 100, 0.1),
    500_000: Length(10_000, 500, 0.02),
    float("inf"): Length(20_000, 500, 0.01),
}
EVALUATIONS = 10

recipe = Recipe(
    name="finetune",
    init=NO_WEIGHTS,
    data=Data(val_share=0.1, eval_crop="resmall"),
    image_size=None,
    augment=Augment(crop="inception", min_area=0.05, flip=True),
    optim=Optim(name="sgd", lr=0.03, momentum=0.9, weight_decay=0.0, schedule="cosine", warmup="100 steps", clip=1.0),
    duration="500 steps",
    batch_size=512,
    loss="auto",
    eval_every="50 steps",
    keep="last",
)


def recipe_for(num_images: int) -> Recipe:
    """The recipe with the length that suits the number of training images."""
    steps, warmup, val_share = next(length for limit, length in LENGTHS.items() if num_images < limit)
    return changed(
        recipe,
        data={"val_share": val_share},
        optim={"warmup": f"{warmup} steps"},
        duration=f"{steps} steps",
        eval_every=f"{steps // EVALUATIONS} steps",
    )
