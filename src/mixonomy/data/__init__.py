"""Data: sources, splits, the resumable stream, augmentation, and batches."""

from mixonomy.data.bad_images import MAX_BAD_SHARE, BadImage, BadImages
from mixonomy.data.batch import Batch
from mixonomy.data.drawing import Drawn, draw
from mixonomy.data.find import FoundImages, find_images
from mixonomy.data.loading import EvalData, TrainData, train_data
from mixonomy.data.sources import SPLITS, Source, Split, first_image, folder_of, known_sources, open_source
from mixonomy.data.splits import Plan, first_images, hold_out, plan_splits
from mixonomy.data.workers import default_workers

__all__ = [
    "MAX_BAD_SHARE",
    "SPLITS",
    "BadImage",
    "BadImages",
    "Batch",
    "Drawn",
    "EvalData",
    "FoundImages",
    "Plan",
    "Source",
    "Split",
    "TrainData",
    "default_workers",
    "draw",
    "find_images",
    "first_image",
    "first_images",
    "folder_of",
    "hold_out",
    "known_sources",
    "open_source",
    "plan_splits",
    "train_data",
]
