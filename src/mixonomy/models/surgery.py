"""Stand-in until the branch families is merged."""

from dataclasses import replace

from torch import nn

from mixonomy.models.info import info_of, set_info


def with_head(model: nn.Module, num_classes: int) -> nn.Module:
    head = model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    new = nn.Linear(head.in_features, num_classes)
    nn.init.zeros_(new.weight)
    nn.init.zeros_(new.bias)
    model.head = new
    info = info_of(model)
    set_info(model, replace(info, arguments={**info.arguments, "num_classes": num_classes}, class_names=()))
    return model
