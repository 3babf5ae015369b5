"""Layers: what mixes channels, what mixes locations, and the one block that holds both."""

from mixonomy.nn.block import Block, DropPath
from mixonomy.nn.init import initialise
from mixonomy.nn.mixing import MixingPattern, mixing_pattern
from mixonomy.nn.mlp import MLP, TokenMLP
from mixonomy.nn.patch import PatchEmbed

__all__ = [
    "MLP",
    "Block",
    "DropPath",
    "MixingPattern",
    "PatchEmbed",
    "TokenMLP",
    "initialise",
    "mixing_pattern",
]
