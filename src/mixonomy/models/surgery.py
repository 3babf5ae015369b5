"""Changes a model's last layer."""

from dataclasses import replace

import torch
from torch import nn

from mixonomy.models.info import info_of, set_info


def with_head(model: nn.Module, num_classes: int) -> nn.Module:
    """The same model with a new linear head whose weights and biases are zero; what belonged to the old classes goes.

    Args:
      model: with a linear layer named `head`; it is changed and returned.
      num_classes: K, of the new head, which is on the device and of the type of the old one.
    Raises:
      ValueError: if the model has no such head, or no information, see `info_of`, or for fewer than one class.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; give at least 1.")
    head = getattr(model, "head", None)
    if not isinstance(head, nn.Linear):
        raise ValueError(f"this {type(model).__name__} has no linear layer named `head`, so it gets no new one.")
    info = info_of(model)
    with torch.device("meta"):
        new = nn.Linear(head.in_features, num_classes, dtype=head.weight.dtype)
    new.to_empty(device=head.weight.device)
    for parameter in new.parameters():
        nn.init.zeros_(parameter)
    model.head = new.train(head.training)
    arguments = {**info.arguments, "num_classes": num_classes} if info.arguments else {}
    set_info(model, replace(info, arguments=arguments, class_names=(), temperature=1.0, thresholds=()))
    return model
