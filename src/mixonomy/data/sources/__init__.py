"""Where images come from: one SOURCE string opens any of them, as random access from index to image and label."""

from mixonomy.data.sources.base import SPLITS, Encoded, Labels, Source, Split
from mixonomy.data.sources.files import first_image, has_image_ending, image_paths
from mixonomy.data.sources.open import folder_of, known_sources, open_source

__all__ = [
    "SPLITS",
    "Encoded",
    "Labels",
    "Source",
    "Split",
    "first_image",
    "folder_of",
    "has_image_ending",
    "image_paths",
    "known_sources",
    "open_source",
]
