"""The words that recipes, models and commands choose among: one definition each, which imports nothing heavy."""

from typing import Literal

Loss = Literal["softmax", "sigmoid"]
Schedule = Literal["linear", "cosine", "constant"]
Precision = Literal["fp32", "bf16"]
PrecisionOrAuto = Literal["auto", "fp32", "bf16"]
"""auto: what suits the device, see `mixonomy.devices`."""
Gelu = Literal["tanh", "erf"]
Init = Literal["flax", "timm"]
Pool = Literal["token", "mean"]
Activation = Literal["gelu", "relu"]
Stem = Literal["auto", "imagenet", "small"]
BadImagePolicy = Literal["error", "skip"]
RealBy = Literal["name", "index"]
"""name: that which ImageNet gives an image; index: its place among the images of the split."""
