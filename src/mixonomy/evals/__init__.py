"""Evaluators: what reads a trained model and yields (name, value)."""

from mixonomy.evals.calibrate import choose_thresholds, collect, fit_temperature, tempered
from mixonomy.evals.classify import Classification
from mixonomy.evals.features import Features, features_of, top1
from mixonomy.evals.fewshot import FewShot, draw_support, few_shot
from mixonomy.evals.knn import KNN
from mixonomy.evals.label_errors import LabelCheck, Suspect, multilabel_suspects
from mixonomy.evals.linear_probe import LinearProbe, LinearScores, linear_probe
from mixonomy.evals.multilabel import MultiLabel
from mixonomy.evals.predictor import Predictor, normalise, probabilities
from mixonomy.evals.real import Real, imagenet_classes, read_real
from mixonomy.evals.ridge import RidgeProbe
from mixonomy.evals.score import Scores, map_classes, score

__all__ = [
    "KNN",
    "Classification",
    "Features",
    "FewShot",
    "LabelCheck",
    "LinearProbe",
    "LinearScores",
    "MultiLabel",
    "Predictor",
    "Real",
    "RidgeProbe",
    "Scores",
    "Suspect",
    "choose_thresholds",
    "collect",
    "draw_support",
    "features_of",
    "few_shot",
    "fit_temperature",
    "imagenet_classes",
    "linear_probe",
    "map_classes",
    "multilabel_suspects",
    "normalise",
    "probabilities",
    "read_real",
    "score",
    "tempered",
    "top1",
]
