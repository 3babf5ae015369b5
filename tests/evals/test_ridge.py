"""RidgeProbe beside the normal equations written out, in both of its forms.

Axes: N images, C channels of the features, K classes.
"""

import re

import pytest
import torch

import mixonomy as mx
from mixonomy.evals import ridge


def classes(n: int, dim: int, k: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(features float32 [N, C] around one centre for each class, labels [N])."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(k, dim, generator=generator) * 3
    labels = torch.arange(n) % k
    return centres[labels] + torch.randn(n, dim, generator=generator) + 7.0, labels


def dense(features: torch.Tensor, labels: torch.Tensor, num_classes: int, l2: float) -> torch.Tensor:
    """Weights [C + 1, K] by an augmented least-squares problem: rows sqrt(l2) I under the design, zeros as targets."""
    x = features.double()
    x = (x - x.mean(0)) / (x.std(0, correction=0) + 1e-5)
    x = torch.cat([x, torch.full((len(x), 1), 100.0, dtype=torch.float64)], dim=1)
    targets = torch.where(labels[:, None] == torch.arange(num_classes), 1.0, -1.0).double()
    dim = x.shape[1]
    x = torch.cat([x, torch.eye(dim, dtype=torch.float64) * l2**0.5])
    return torch.linalg.lstsq(x, torch.cat([targets, targets.new_zeros(dim, num_classes)]), driver="gelsd").solution


@pytest.mark.parametrize("l2", [1024.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "dim"), [(60, 12), (13, 12), (12, 12), (9, 40), (1, 3)])
def test_weights_are_those_of_the_normal_equations_in_both_forms(n, dim, dtype, l2):
    features, labels = classes(n, dim, k=4)
    features = features.to(dtype)
    probe = mx.RidgeProbe.fit(features, labels, 5, l2=l2)
    expected = dense(features, labels, 5, l2)
    torch.testing.assert_close(probe.weights, expected, rtol=0, atol=1e-10)
    x = features.double()
    x = (x - x.mean(0)) / (x.std(0, correction=0) + 1e-5)
    torch.testing.assert_close(probe.scores(features), x @ expected[:-1] + 100 * expected[-1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", [60, 20])
def test_parts_of_any_size_give_the_same_classifier(n, monkeypatch):
    features, labels = classes(n, 12, k=4)
    whole = mx.RidgeProbe.fit(features, labels, 4)
    monkeypatch.setattr(ridge, "ROWS", 7)
    parts = mx.RidgeProbe.fit(features, labels, 4)
    torch.testing.assert_close(parts.weights, whole.weights, rtol=0, atol=1e-12)
    torch.testing.assert_close(parts.scores(features), whole.scores(features), rtol=0, atol=1e-12)


def test_new_images_are_standardised_as_the_support_set_was():
    features, labels = classes(50, 6, k=3)
    probe = mx.RidgeProbe.fit(features, labels, 3)
    torch.testing.assert_close(probe.scores(features)[4:5], probe.scores(features[4:5]), rtol=0, atol=1e-12)
    assert (probe.scores(features).argmax(1) == labels).double().mean() > 0.95


def test_constant_feature_and_class_without_images_do_no_harm():
    features, labels = classes(40, 6, k=3)
    features[:, 2] = 5.0
    scores = mx.RidgeProbe.fit(features, labels, 4).scores(features)
    assert torch.isfinite(scores).all() and (scores[:, 3] < -0.9).all()


@pytest.mark.slow
def test_agrees_with_scikit_learns_ridge():
    from sklearn.linear_model import Ridge

    features, labels = classes(80, 10, k=3)
    x = features.double()
    x = torch.nn.functional.pad((x - x.mean(0)) / (x.std(0, correction=0) + 1e-5), (0, 1), value=100.0).numpy()
    targets = 2.0 * torch.nn.functional.one_hot(labels, 3).double().numpy() - 1
    theirs = Ridge(alpha=1024.0, fit_intercept=False, solver="svd").fit(x, targets)
    ours = mx.RidgeProbe.fit(features, labels, 3).weights
    torch.testing.assert_close(ours, torch.from_numpy(theirs.coef_.T.copy()), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("features", "labels", "num_classes", "l2", "complaint"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 2, 1.0, "there are no features to fit to"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.long), 2, 1.0, "features are [3] and labels [3]; give [N, C] and"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.long), 2, 1.0, "features are [3, 2] and labels [2]"),
        (torch.zeros(3, 2), torch.zeros(3), 2, 1.0, "labels are torch.float32; give class numbers, int64."),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), 2, 1.0, "labels are from 0 to 2 and there are 2 classes"),
        (torch.full((1, 2), torch.nan), torch.tensor([0]), 2, 1.0, "features are not finite"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 1]), 2, 0.0, "l2 is 0.0; give more than 0."),
    ],
)
def test_what_cannot_be_fitted_is_one_sentence(features, labels, num_classes, l2, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        mx.RidgeProbe.fit(features, labels, num_classes, l2)
