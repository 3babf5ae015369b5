"""Scores of several labels per image beside scikit-learn's, and what is chosen on validation data.

Axes: N images, K classes.
"""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixonomy.evals import MultiLabel, choose_thresholds, fit_temperature, multilabel, score
from mixonomy.evals.multilabel import average_precision


def answers(n: int = 200, k: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(probabilities float64 [N, K], labels bool [N, K]); some probabilities are equal."""
    rng = np.random.default_rng(seed)
    labels = rng.random((n, k)) < np.linspace(0.05, 0.6, k)
    probs = (labels * 0.3 + rng.random((n, k)) * 0.7).round(2)
    return torch.from_numpy(probs), torch.from_numpy(labels)


def scored(probs, labels, thresholds=(), batch=64) -> MultiLabel:
    parts = torch.arange(len(labels)).split(batch)
    return score(lambda at: probs[at], [(at, labels[at], at) for at in parts], MultiLabel(labels.shape[1], thresholds))


def test_of_too_many_probabilities_those_of_every_kth_image_are_kept(monkeypatch):
    probs, labels = answers(n=90)
    whole = scored(probs, labels)
    monkeypatch.setattr(multilabel, "MAX_KEPT", 30 * 5)
    few, every_fourth = scored(probs, labels, batch=7), scored(probs[::4], labels[::4])
    assert few.n == 90 and few.to_dict()["measured_images"] == 23 and "measured_images" not in whole.to_dict()
    assert few.per_class() == every_fourth.per_class()
    exact = {"nll", "n"}
    assert {k: v for k, v in few.scores() if k in exact} == pytest.approx(
        {k: v for k, v in whole.scores() if k in exact}
    )
    assert {k: v for k, v in few.scores() if k not in exact} == {
        k: v for k, v in every_fourth.scores() if k not in exact
    }
    assert few.worst() == whole.worst()


@pytest.mark.slow
def test_scores_are_scikit_learns():
    from sklearn import metrics

    probs, labels = answers()
    thresholds = (0.3, 0.4, 0.5, 0.6, 0.7)
    result = scored(probs, labels, thresholds)
    y, p = labels.numpy(), probs.numpy().astype(np.float32)
    said = p >= np.array(thresholds, dtype=np.float32)
    scores = dict(result.scores())
    assert scores["map"] == pytest.approx(metrics.average_precision_score(y, p, average="macro"), abs=1e-9)
    assert scores["micro_f1"] == pytest.approx(metrics.f1_score(y, said, average="micro"))
    assert scores["macro_f1"] == pytest.approx(metrics.f1_score(y, said, average="macro"))
    assert scores["exact"] == metrics.accuracy_score(y, said)
    losses = torch.nn.functional.binary_cross_entropy(probs, labels.double(), reduction="none").sum(1)
    assert scores["nll"] == pytest.approx(float(losses.mean()), rel=1e-9)
    precision, recall, f1, n = metrics.precision_recall_fscore_support(y, said)
    for k, row in enumerate(result.per_class()):
        assert (row["n"], row["threshold"]) == (n[k], thresholds[k])
        assert (row["precision"], row["recall"], row["f1"]) == pytest.approx((precision[k], recall[k], f1[k]))


def test_classes_that_never_occur_are_left_out_of_the_mean():
    probs, labels = answers()
    labels[:, 2] = False
    rows = scored(probs, labels).per_class()
    assert rows[2]["ap"] is None and rows[2]["recall"] is None
    mean = np.mean([row["ap"] for row in rows if row["ap"] is not None])
    assert dict(scored(probs, labels).scores())["map"] == pytest.approx(mean)


def test_worst_mistakes_name_image_class_and_truth():
    probs = torch.tensor([[0.9, 0.2], [0.4, 0.99], [0.1, 0.1]], dtype=torch.float64)
    labels = torch.tensor([[True, False], [False, False], [True, False]])
    result = scored(probs, labels)
    assert result.worst() == [
        {"index": 1, "class": 1, "is_label": False, "prob": 0.99, "label": []},
        {"index": 2, "class": 0, "is_label": True, "prob": 0.1, "label": [0]},
    ]
    json.dumps(result.to_dict(), allow_nan=False)


def test_classes_of_the_data_are_put_in_the_models_order():
    probs = torch.tensor([[0.9, 0.1, 0.8]], dtype=torch.float64)
    labels = torch.tensor([[True, True]])  # of classes that the model numbers 2 and 0
    one = torch.tensor([0])
    result = score(lambda _: probs, [(one, labels, one)], MultiLabel(3), label_map=torch.tensor([2, 0]))
    assert dict(result.scores())["exact"] == 1.0


def test_outputs_that_cannot_be_scored_are_refused():
    with pytest.raises(ValueError, match="the model has 3 outputs and the data 2 classes"):
        MultiLabel(2).add(torch.zeros(1, 3), torch.zeros(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="not finite"):
        MultiLabel(2).add(torch.full((1, 2), float("nan")), torch.zeros(1, 2, dtype=torch.bool))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
def test_average_precision_is_the_sum_written_out(pairs):
    probs, labels = np.array([p for p, _ in pairs]) / 5, np.array([y for _, y in pairs])
    labels[0] = True
    expected, before = 0.0, 0.0
    for threshold in sorted(set(probs), reverse=True):
        said = probs >= threshold
        precision, recall = (said & labels).sum() / said.sum(), (said & labels).sum() / labels.sum()
        expected, before = expected + (recall - before) * precision, recall
    assert average_precision(probs, labels) == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=30))
def test_no_threshold_gives_a_better_f1_than_the_chosen(pairs):
    probs, labels = np.array([[p / 9] for p, _ in pairs]), np.array([[y] for _, y in pairs])

    def f1(threshold):
        said = probs >= threshold
        return 2 * (said & labels).sum() / max(said.sum() + labels.sum(), 1)

    (chosen,) = choose_thresholds(probs, labels)
    assert f1(chosen) == pytest.approx(max(f1(t) for t in [*np.unique(probs), 2.0])) or not labels.any()
    assert labels.any() or chosen == 0.5


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_temperature_undoes_what_made_the_probabilities_wrong(true):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20000, 6)) * 2
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(6, p=p) for p in probs])
    wrong = np.exp(true * logits) / np.exp(true * logits).sum(1, keepdims=True)
    assert fit_temperature(wrong, labels) == pytest.approx(true, rel=0.04)


def test_few_images_without_a_mistake_do_not_make_a_model_infinitely_sure():
    probs = np.full((50, 10), 0.02)
    probs[:, 3] = 0.82
    temperature = fit_temperature(probs, np.full(50, 3))
    sure = probs[0] ** (1 / temperature)
    assert 0.96 < sure[3] / sure.sum() < 0.99
