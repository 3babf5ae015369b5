"""SAM's way up and back: how far, along what, and that nothing of it is left."""

import pytest
import torch
from torch import nn

from mixonomy.optim import ascended


def with_gradient() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[2].bias.requires_grad_(False)
    model(torch.randn(5, 3)).square().sum().backward()
    return model


@pytest.mark.parametrize("rho", [0.05, 2.0])
def test_weights_move_by_rho_along_the_gradient_of_them_all(rho):
    model = with_gradient()
    before = [p.detach().clone() for p in model.parameters()]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
    flat = torch.cat([g.flatten() for g in gradients])
    with ascended(model, rho):
        for p, start, gradient in zip(model.parameters(), before, gradients, strict=True):
            torch.testing.assert_close(p.detach(), start + rho * gradient / flat.square().sum().sqrt())
        way = torch.cat([(p.detach() - b).flatten() for p, b in zip(model.parameters(), before, strict=True)])
        assert way.norm().item() == pytest.approx(rho, rel=1e-4)


def test_weights_and_buffers_come_back_to_the_bit_and_only_the_new_gradient_is_left():
    model = with_gradient()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with ascended(model, 0.3):
        assert all(p.grad is None for p in model.parameters())
        model(torch.randn(5, 3))
        model[0].weight.grad = torch.ones(4, 3)
        assert not torch.equal(model[1].running_mean, before["1.running_mean"])
        assert not torch.equal(model[0].weight, before["0.weight"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.ones(4, 3)) and model[2].weight.grad is None


def test_weights_come_back_after_an_error_too():
    model = with_gradient()
    before = model[0].weight.detach().clone()
    with pytest.raises(KeyError), ascended(model, 0.3):
        raise KeyError
    assert torch.equal(model[0].weight, before)


def test_gradient_of_zero_moves_nothing():
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    model.weight.grad = torch.zeros(2, 2)
    with ascended(model, 0.3):
        assert torch.equal(model.weight, before)
