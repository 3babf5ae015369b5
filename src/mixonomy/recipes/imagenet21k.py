"""A Mixer on ImageNet-21k from scratch, 300 epochs, B/16 if --model names no other: the paper's table 4, rows 3 and 4.

    mixonomy train --recipe imagenet21k --data shards:imagenet21k --model mixer-l/16

Regularisation differs by size: B has RandAugment 10 and mixup 0.2, L has 20 and 0.5. The table has no S and H on this
data: S gets what B has, and H what L has.
Published scores after fine-tuning on ImageNet-1k (paper, table 3): B/16 80.64, L/16 82.89 % top-1. Not run here.
Source: MLP-Mixer paper, section 3 and table 4. What neither says of this data is big_vision's for ImageNet-1k
(configs/mlp_mixer_i1k.py): the sigmoid loss, a head bias of minus the logarithm of the number of classes (21,843), the
end of the rate and the hundredth of train held out.
"""

import re

from mixonomy.recipe import Recipe, changed
from mixonomy.recipes.imagenet1k import recipe as imagenet1k

recipe = changed(
    imagenet1k,
    name="imagenet21k",
    data={"source": "imagenet21k"},
    model={"head_bias": -10.0},
    augment={"randaugment_magnitude": 10, "mixup": 0.2},
)


def for_model(name: str) -> Recipe:
    """The row of the table for a model, such as "mixer-l/16"."""
    large = {"augment": {"randaugment_magnitude": 20, "mixup": 0.5}} if size_of(name) in ("l", "h") else {}
    return changed(recipe, model={"name": name}, **large)


def size_of(name: str) -> str:
    """ "s", "b", "l" or "h" of a name such as "mixer-l/16" or "timm:vit_large_patch16_224"; others count as "b"."""
    found = re.match(r"(?:timm:)?[a-z]+[-_](s|b|l|h)(?:mall|ase|arge|uge)?(?:[-/_\d]|$)", name.lower())
    return found[1] if found else "b"
