"""Models: built by name, and read from files of weights."""

from mixonomy.models.create import FAMILIES, Family, create, create_from, list_models
from mixonomy.models.files import load_weights, read_npz, save_model
from mixonomy.models.info import ModelInfo, TrainedOn, info_of, set_info
from mixonomy.models.mixer import SPECS, Mixer, MixerSize
from mixonomy.models.permute import permuted, shuffle_patches
from mixonomy.models.reading import read_safetensors
from mixonomy.models.recompute import checkpoint_blocks
from mixonomy.models.resize import resize
from mixonomy.models.timm_model import CURATED, TimmModel

__all__ = [
    "CURATED",
    "FAMILIES",
    "SPECS",
    "Family",
    "Mixer",
    "MixerSize",
    "ModelInfo",
    "TimmModel",
    "TrainedOn",
    "checkpoint_blocks",
    "create",
    "create_from",
    "info_of",
    "list_models",
    "load_weights",
    "permuted",
    "read_npz",
    "read_safetensors",
    "resize",
    "save_model",
    "set_info",
    "shuffle_patches",
]
