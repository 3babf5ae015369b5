"""Initial weights, by the name of the library whose choice they follow."""

import math
from typing import Literal

from torch import Tensor, nn

Init = Literal["flax", "timm"]

# A normal distribution cut at +-2 sigma has 0.8796 of its standard deviation left (Flax corrects for it).
TRUNCATED_STD = 0.87962566103423978


def lecun_normal_(weight: Tensor) -> Tensor:
    """Fills a weight of shape [out, in, ...] with variance 1 / fan_in, truncated at two sigma.

    Source: jax nn/initializers.py (lecun_normal), the default of Flax's Dense and Conv.
    """
    std = math.sqrt(1.0 / weight[0].numel()) / TRUNCATED_STD
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def initialise(model: nn.Module, init: Init = "flax") -> None:
    """Draws all linear and convolution weights of a model from torch's generator; norms keep scale 1, bias 0.

    Args:
      init: "flax" is LeCun-normal with zero biases; "timm" is Xavier-uniform for linear layers with
        biases of standard deviation 1e-6, and LeCun-normal for convolutions.
    Source: flax linen/linear.py; timm models/mlp_mixer.py (_init_weights).
    """
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        if init == "timm" and isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=1e-6)
        else:
            lecun_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
