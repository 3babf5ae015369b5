"""Evaluators: what reads a trained model and yields (name, value)."""

from mixonomy.evals.calibrate import choose_thresholds, collect, fit_temperature, tempered
from mixonomy.evals.classify import Classification
from mixonomy.evals.label_errors import LabelCheck, Suspect, multilabel_suspects
from mixonomy.evals.multilabel import MultiLabel
from mixonomy.evals.predictor import Predictor, normalise
from mixonomy.evals.score import Scores, map_classes, score

__all__ = [
    "Classification",
    "LabelCheck",
    "MultiLabel",
    "Predictor",
    "Scores",
    "Suspect",
    "choose_thresholds",
    "collect",
    "fit_temperature",
    "map_classes",
    "multilabel_suspects",
    "normalise",
    "score",
    "tempered",
]
