"""Fine-tuning of any trained model by the paper's protocol: SGD, batches of 512, a length by the number of images.

    mixonomy train --init WEIGHTS --data flowers102 --sweep optim.lr=0.003,0.01,0.03,0.06

The sweep is how the paper chooses the rate: on held-out images; then all images are trained on, and test is scored.
Source: MLP-Mixer paper, section 3 and appendix C, and ViT (Dosovitskiy et al. 2020), appendix B.1.1 and table 4:
SGD with momentum 0.9, gradients clipped at norm 1, cosine after a linear warm-up, no weight decay, a head of zeros,
500 steps on Pets and Flowers, 10,000 on CIFAR, 20,000 on ImageNet, and 10, 2 and 1 % of train to choose on. BiT's
hyper-rule (big_transfer bit_hyperrule.py) says the same of any data, by its number of images. The paper dropped the
inception crop for fine-tuning (appendix A) and does not say for what; big_vision configs/transfer.py has the crop
resmall and a flip, and with vision_transformer vit_jax/configs/common.py the warm-ups of 500 and 100 steps, which the
paper does not give either; softmax loss, as there.
"""

from typing import NamedTuple

from mixonomy.recipe import NO_WEIGHTS, Augment, Data, Optim, Recipe, changed


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
EVALUATIONS = 5  # own choice: they draw a curve and choose nothing, since the last weights are kept

recipe = Recipe(
    name="finetune",
    init=NO_WEIGHTS,
    data=Data(val_share=0.1, eval_crop="resmall"),
    image_size=None,
    augment=Augment(crop="resmall", flip=True),
    optim=Optim(name="sgd", lr=0.03, momentum=0.9, weight_decay=0.0, schedule="cosine", warmup="100 steps", clip=1.0),
    duration="500 steps",
    batch_size=512,
    loss="auto",
    eval_every="100 steps",
    keep="last",
)


def recipe_for(num_images: int, steps: int | None = None) -> Recipe:
    """The recipe with the length that suits the number of training images.

    Args:
      steps: another length, of which the warm-up keeps its share.
    """
    length = next(length for limit, length in LENGTHS.items() if num_images < limit)
    steps = length.steps if steps is None else steps
    return changed(
        recipe,
        data={"val_share": length.val_share},
        optim={"warmup": f"{round(steps * length.warmup / length.steps)} steps"},
        duration=f"{steps} steps",
        eval_every=f"{max(steps // EVALUATIONS, 1)} steps",
    )
