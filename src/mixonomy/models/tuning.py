"""Which weights of a model are trained: all, its head alone, or the head and all vectors."""

from collections.abc import Iterator
from typing import Literal

from torch import nn

Tune = Literal["all", "head", "bias-norm"]
HEAD = "head."
NO_BIASES = ("class_token", "cls_token", "positions", "pos_embed")  # tokens and tables, ours and timm's


def set_trainable(model: nn.Module, tune: Tune) -> None:
    """Switches gradients on for the weights that are trained, and off for the others.

    Args:
      tune: "all"; "head", the layer named `head`; "bias-norm", that and every vector: biases and the gains of norms,
        which in some models have axes of length 1 beside their own.
    Raises:
      ValueError: if only a part is to be trained and the model has no layer named `head`.
    Source for "bias-norm": Ben Zaken et al. 2021, "BitFit"; with the gains of norms as in Cai et al. 2020, "TinyTL".
    """
    named = dict(model.named_parameters())
    if tune != "all" and not any(name.startswith(HEAD) for name in named):
        raise ValueError(
            f"this {type(model).__name__} has no layer named `head`, which is to be trained first or alone; name it so."
        )
    trained = {"all": named.keys(), "head": _of_head(named), "bias-norm": _of_head_and_vectors(named)}[tune]
    trained = set(trained)
    for name, parameter in named.items():
        parameter.requires_grad_(name in trained)


def set_training(model: nn.Module, tune: Tune) -> None:
    """Training mode for what is trained: below a head that is trained alone, dropout and running means rest."""
    model.train(tune != "head")
    if tune == "head":
        model.get_submodule("head").train()


def _of_head(named: dict[str, nn.Parameter]) -> Iterator[str]:
    return (name for name in named if name.startswith(HEAD))


def _of_head_and_vectors(named: dict[str, nn.Parameter]) -> Iterator[str]:
    for name, parameter in named.items():
        is_vector = sum(length > 1 for length in parameter.shape) <= 1
        if name.startswith(HEAD) or (is_vector and name.rpartition(".")[2] not in NO_BIASES):
            yield name
