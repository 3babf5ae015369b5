"""Losses over soft targets, beside torch's own and the formulas written out.

Axes: B images, K classes.
"""

import pytest
import torch

from mixonomy.optim import classification_loss, soft_targets

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) * 3
LABELS = torch.tensor([0, 3, 1, 1, 2, 0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_softmax_loss_is_torchs_on_hard_labels(smoothing):
    ours = classification_loss(LOGITS, soft_targets(LABELS, 4, smoothing), "softmax")
    theirs = torch.nn.functional.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_losses_follow_their_formulas_on_soft_targets():
    targets = torch.rand(6, 4, generator=torch.Generator().manual_seed(1))
    targets = targets / targets.sum(1, keepdim=True)
    logits, t = LOGITS.double(), targets.double()
    softmax = -(t * (logits - logits.logsumexp(1, keepdim=True))).sum(1).mean()
    # big_vision utils.py, sigmoid_xent: summed over classes, mean over images.
    sigmoid = -(t * torch.log(1 / (1 + torch.exp(-logits))) + (1 - t) * torch.log(1 / (1 + torch.exp(logits))))
    for name, expected in (("softmax", softmax), ("sigmoid", sigmoid.sum(1).mean())):
        ours = classification_loss(LOGITS, targets, name)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=1e-6)


def test_loss_of_half_precision_logits_is_computed_in_float32():
    targets = soft_targets(LABELS, 4, 0.0)
    half = LOGITS.bfloat16()
    for name in ("softmax", "sigmoid"):
        loss = classification_loss(half, targets, name)
        assert loss.dtype == torch.float32
        assert torch.equal(loss, classification_loss(half.float(), targets, name))


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_very_sure_logits_give_a_finite_loss_and_gradient(loss):
    logits = torch.tensor([[1e4, -1e4, 0.0, 0.0]], requires_grad=True)
    value = classification_loss(logits, soft_targets(torch.tensor([1]), 4, 0.1), loss)
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_targets_spread_the_smoothing_over_all_classes(smoothing):
    targets = soft_targets(LABELS, 4, smoothing)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
    others = smoothing / 4
    for row, label in zip(targets.tolist(), LABELS.tolist(), strict=True):
        assert row == pytest.approx([1 - smoothing + others if k == label else others for k in range(4)])


def test_loss_of_a_fresh_head_is_that_of_a_guess():
    zeros, targets = torch.zeros(6, 4), soft_targets(LABELS, 4, 0.0)
    assert classification_loss(zeros, targets, "softmax").item() == pytest.approx(torch.tensor(4.0).log().item())
    assert classification_loss(zeros, targets, "sigmoid").item() == pytest.approx(4 * torch.tensor(2.0).log().item())
