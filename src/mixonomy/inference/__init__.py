"""The fastest verified way to run a model for inference on this machine."""

from mixonomy.inference.tuned import Fast, fast

__all__ = ["Fast", "fast"]
