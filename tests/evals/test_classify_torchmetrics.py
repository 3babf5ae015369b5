"""Scores beside torchmetrics', which takes seconds to import."""

import pytest
import torch

from mixonomy.evals import Classification

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the libraries that torchmetrics imports
]


@pytest.mark.parametrize("k", [2, 10])
def test_scores_are_torchmetrics(k):
    from torchmetrics.functional import classification as theirs

    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(k, (400,), generator=generator)
    logits = torch.randn(400, k, generator=generator, dtype=torch.float64)
    logits[torch.arange(400), labels] += 1.5
    probs = logits.softmax(1)
    ours = Classification(k)
    ours.add(probs, labels)
    scores = dict(ours.scores())
    accuracy = theirs.multiclass_accuracy(probs, labels, num_classes=k, average="micro")
    assert scores["top1"] == pytest.approx(accuracy.item(), abs=1e-6)
    if k > 5:
        top5 = theirs.multiclass_accuracy(probs, labels, num_classes=k, average="micro", top_k=5)
        assert scores["top5"] == pytest.approx(top5.item(), abs=1e-6)
    f1 = theirs.multiclass_f1_score(probs, labels, num_classes=k, average="macro")
    assert scores["macro_f1"] == pytest.approx(f1.item(), abs=1e-6)
    ece = theirs.multiclass_calibration_error(probs, labels, num_classes=k, n_bins=15, norm="l1")
    assert scores["ece"] == pytest.approx(ece.item(), abs=1e-6)
    confusion = theirs.multiclass_confusion_matrix(probs, labels, num_classes=k)
    assert torch.equal(torch.from_numpy(ours.confusion), confusion)
