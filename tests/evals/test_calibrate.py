"""Which validation images choose temperature and thresholds, and what the temperature does."""

import numpy as np
import pytest
import torch

from mixonomy.evals import calibrate, collect, tempered


def batches(n: int, size: int):
    for start in range(0, n, size):
        indices = torch.arange(start, min(start + size, n))
        yield indices[:, None].float(), indices // 10, indices


@pytest.mark.parametrize(
    ("limit", "probs_limit", "expected"),
    [(100, 100, range(50)), (50, 100, range(50)), (20, 100, range(0, 50, 3)), (20, 12, range(0, 50, 5))],
)
def test_of_too_many_images_or_classes_every_kth_image_is_taken(limit, probs_limit, expected, monkeypatch):
    monkeypatch.setattr(calibrate, "MAX_IMAGES", limit)
    monkeypatch.setattr(calibrate, "MAX_PROBS", probs_limit)
    probs, labels, indices = collect(lambda images: images.double(), batches(50, 7), 50, 1)
    assert indices.tolist() == list(expected)
    assert probs[:, 0].tolist() == list(expected) and labels.tolist() == [i // 10 for i in expected]


def test_tempered_probabilities_are_the_softmax_of_scaled_logits():
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.testing.assert_allclose(tempered(logits.softmax(1).numpy(), 2.5), (logits / 2.5).softmax(1).numpy(), rtol=1e-12)
    assert np.isfinite(tempered(np.array([[1.0, 0.0]]), 0.05)).all()
