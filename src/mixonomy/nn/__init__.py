"""Layers: what mixes channels, what mixes locations, and the one block that holds both."""

from mixonomy.nn.affine import Affine
from mixonomy.nn.attention import SelfAttention
from mixonomy.nn.block import Block, DropPath
from mixonomy.nn.gating import SpatialGatingUnit
from mixonomy.nn.init import initialise
from mixonomy.nn.mixing import MixingPattern, mixing_pattern
from mixonomy.nn.mlp import MLP, TokenLinear, TokenMLP
from mixonomy.nn.patch import PatchEmbed
from mixonomy.nn.window import DepthwiseConv, Pooling

__all__ = [
    "MLP",
    "Affine",
    "Block",
    "DepthwiseConv",
    "DropPath",
    "MixingPattern",
    "PatchEmbed",
    "Pooling",
    "SelfAttention",
    "SpatialGatingUnit",
    "TokenLinear",
    "TokenMLP",
    "initialise",
    "mixing_pattern",
]
