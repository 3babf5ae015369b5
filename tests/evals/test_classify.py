"""Scores of a classifier beside scikit-learn's, and what makes them exact.

Axes: B images in a batch, N images in all, K classes.
"""

import json

import numpy as np
import pytest
import torch

from mixonomy.evals import Classification, Predictor, map_classes, normalise, score
from mixonomy.preprocessing import Preprocessing


def answers(n: int = 500, k: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(probabilities float64 [N, K], labels [N]) of a classifier that is right about half of the time."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(k, (n,), generator=generator)
    logits = torch.randn(n, k, generator=generator, dtype=torch.float64) * 1.5
    logits[torch.arange(n), labels] += 2.0
    return logits.softmax(1), labels


def scored(probs: torch.Tensor, labels: torch.Tensor, batch: int = 64) -> Classification:
    result = Classification(probs.shape[1])
    for start in range(0, len(labels), batch):
        result.add(probs[start : start + batch], labels[start : start + batch])
    return result


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 7, 30])
def test_scores_are_scikit_learns(k):
    from sklearn import metrics

    probs, labels = answers(k=k)
    result, y, p = scored(probs, labels), labels.numpy(), probs.numpy()
    scores, predicted, every = dict(result.scores()), p.argmax(1), list(range(k))
    assert scores["n"] == 500
    assert scores["top1"] == metrics.accuracy_score(y, predicted)
    assert scores["top5"] == (metrics.top_k_accuracy_score(y, p, k=5, labels=every) if k > 5 else 1.0)
    assert scores["nll"] == pytest.approx(metrics.log_loss(y, p, labels=every), abs=1e-12)
    assert scores["macro_f1"] == pytest.approx(metrics.f1_score(y, predicted, average="macro"), abs=1e-12)
    assert np.array_equal(result.confusion, metrics.confusion_matrix(y, predicted, labels=every))
    precision, recall, f1, n = metrics.precision_recall_fscore_support(y, predicted, labels=every, zero_division=np.nan)
    for k, row in enumerate(result.per_class()):
        for name, theirs in (("precision", precision[k]), ("recall", recall[k]), ("f1", f1[k])):
            assert row[name] == (None if np.isnan(theirs) else pytest.approx(theirs, abs=1e-12)), name
        assert row["n"] == n[k]


def test_calibration_error_is_that_of_guo_et_al_written_out():
    probs, labels = answers()
    confidence, predicted = probs.max(1)
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            gap = (predicted == labels)[inside].double().mean() - confidence[inside].mean()
            expected += inside.double().mean().item() * abs(gap.item())
    assert scored(probs, labels).ece == pytest.approx(expected, abs=1e-12)


def test_batches_of_any_size_give_the_same_scores():
    probs, labels = answers()
    whole = scored(probs, labels, 500)
    for batch in (1, 33, 499):
        result = scored(probs, labels, batch)
        for name, value in whole.scores():
            assert dict(result.scores())[name] == pytest.approx(value, abs=1e-12)
        assert np.array_equal(result.confusion, whole.confusion) and result.worst() == whole.worst()


def test_macro_f1_leaves_out_classes_that_do_not_occur():
    probs = torch.tensor([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1]], dtype=torch.float64)
    result = scored(probs, torch.tensor([0, 1]))
    assert result.macro_f1 == pytest.approx((2 / 3 + 0) / 2)
    assert result.per_class()[2] == {"precision": None, "recall": None, "f1": None, "n": 0}


def test_worst_mistakes_are_the_most_confident_ones_in_order():
    probs, labels = answers(n=400, k=4)
    confidence, predicted = probs.max(1)
    gap = confidence - probs[torch.arange(400), labels]
    order = [i for i in torch.argsort(gap, descending=True, stable=True).tolist() if predicted[i] != labels[i]]
    worst = scored(probs, labels, 50).worst()
    assert [mistake.index for mistake in worst] == order[:24]
    first = worst[0]
    assert (first.label, first.predicted) == (labels[order[0]], predicted[order[0]])
    assert first.prob == confidence[order[0]] and first.label_prob == probs[order[0], labels[order[0]]]


def test_label_of_probability_zero_gives_a_finite_nll():
    result = scored(torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([1]))
    assert np.isfinite(dict(result.scores())["nll"]) and result.top1 == 0 and result.ece == 1


def test_everything_survives_json():
    result = scored(*answers())
    again = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert again["n"] == 500 and np.array_equal(again["confusion"], result.confusion)
    assert sum(again["calibration"]["counts"]) == 500


def test_confusion_matrix_is_left_out_for_very_many_classes():
    assert Classification(1001).confusion is None and Classification(1000).confusion.shape == (1000, 1000)


def test_scoring_sees_every_image_once_and_maps_labels():
    three, one = torch.arange(3), torch.tensor([3])
    batches = [(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]), three), (torch.tensor([2]), torch.tensor([0]), one)]
    result = score(lambda images: torch.eye(3)[images], batches, Classification(3))
    assert (result.n, result.top1) == (4, 0.5)
    result = score(lambda images: torch.eye(3)[images], batches, Classification(3), label_map=torch.tensor([2, 1]))
    assert (result.n, result.top1) == (4, 0.5)
    assert result.confusion.tolist() == [[0, 0, 0], [0, 1, 1], [1, 0, 1]]


def test_classes_are_matched_by_name():
    assert map_classes(("cat", "dog"), ("cat", "dog")) is None
    assert map_classes(("cat", "dog", "owl"), ("owl", "cat")).tolist() == [2, 0]


def test_classes_that_the_model_does_not_know_are_refused():
    with pytest.raises(ValueError, match="the data has classes that the model does not know: emu; the model knows cat"):
        map_classes(("cat", "dog"), ("cat", "emu"))
    with pytest.raises(ValueError, match="a, b, c, d, e and 2 more; the model knows h, i, j, k, l and 1 more.$"):
        map_classes(tuple("hijklm"), tuple("abcdefg"))


def test_normalising_scales_to_the_unit_range_then_by_mean_and_deviation():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    preprocessing = Preprocessing((1, 1), mean=(0.5, 0.2, 0.0), std=(0.5, 0.1, 2.0))
    torch.testing.assert_close(normalise(images, preprocessing).flatten(), torch.tensor([-1.0, 0.0, 0.5]))


@pytest.mark.parametrize(
    ("loss", "formula"),
    [("softmax", lambda x: x.softmax(1)), ("sigmoid", lambda x: x.sigmoid() / x.sigmoid().sum(1, keepdim=True))],
)
def test_predictor_gives_probabilities_in_evaluation_mode_and_restores_training(loss, formula):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(12, 4)).train()
    preprocessing = Preprocessing((2, 2))
    predictor = Predictor(model, preprocessing, torch.device("cpu"), "fp32", loss)
    images = torch.randint(0, 256, (5, 3, 2, 2), dtype=torch.uint8)
    probs = predictor(images)
    assert model.training and model[1].training
    torch.testing.assert_close(probs.float(), formula(model.eval()(normalise(images, preprocessing))))
    torch.testing.assert_close(probs.sum(1), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_extreme_logits_give_finite_probabilities_and_exact_losses(loss):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 3))
    torch.nn.init.zeros_(model[1].weight)
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([-200.0, -320.0, -210.0]))
    predictor = Predictor(model, Preprocessing((1, 1)), torch.device("cpu"), "fp32", loss)
    batch = (torch.zeros(1, 3, 1, 1, dtype=torch.uint8), torch.tensor([1]), torch.tensor([0]))
    scored = score(predictor, [batch], Classification(3))
    assert dict(scored.scores())["nll"] == pytest.approx(120.0, abs=1e-3)


def test_model_in_evaluation_mode_stays_so():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 4)).eval()
    Predictor(model, Preprocessing((1, 1)), torch.device("cpu"), "fp32")(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))
    assert not model.training


def test_two_classes_of_one_name_cannot_be_matched():
    with pytest.raises(ValueError, match="the model has two classes named 'crane'"):
        map_classes(("crane", "x", "crane"), ("x", "crane"))
    with pytest.raises(ValueError, match="the data has two classes named 'crane'"):
        map_classes(("crane", "x"), ("x", "crane", "crane"))


def test_confused_pairs_join_both_directions_and_name_an_example_of_each():
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    predicted = torch.tensor([1, 1, 0, 0, 1, 0, 2])
    sure = torch.tensor([0.6, 0.9, 0.8, 0.7, 0.8, 0.6, 0.8], dtype=torch.float64)
    probs = ((1 - sure) / 2)[:, None].repeat(1, 3)
    probs[torch.arange(7), predicted] = sure
    scored = Classification(3)
    scored.add(probs, labels)
    first, second = scored.confused_pairs()
    assert (first["classes"], first["counts"], first["n"]) == ([0, 1], [2, 1], 5)
    assert [example["index"] for example in first["examples"]] == [1, 3]  # of two, the more confident
    assert (second["classes"], second["counts"], second["n"]) == ([0, 2], [0, 1], 5)
    assert second["examples"][0] is None and second["examples"][1]["index"] == 5
