"""Evaluators: what reads a trained model and yields (name, value)."""

from mixonomy.evals.classify import Classification, classify, map_classes
from mixonomy.evals.predictor import Predictor, normalise

__all__ = ["Classification", "Predictor", "classify", "map_classes", "normalise"]
