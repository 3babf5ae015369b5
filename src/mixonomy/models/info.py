"""What travels with a model's weights: how it was built, what its classes are called, how images are prepared."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from mixonomy.choices import Loss, PrecisionOrAuto
from mixonomy.preprocessing import Preprocessing


@dataclass(frozen=True)
class TrainedOn:
    """The data of a training run, so that its images are not taken for new ones.

    Args:
      source: the SOURCE string.
      val_share: share of train that was held out.
      with_val: whether it was trained on the validation images too.
      train_images: how many images it was limited to, if it was.
      digest: of names and labels, see `mixonomy.data.Source.digest`.
    """

    source: str
    val_share: float
    digest: str
    with_val: bool = False
    train_images: int | None = None


@dataclass(frozen=True)
class ModelInfo:
    """Everything beside the weights that makes a classifier usable.

    Args:
      arguments: of `mixonomy.create`, JSON values; empty for a module of the user's own.
      class_names: in label order; empty if unknown.
      preprocessing: from an image file to the model's input.
      loss: what it was trained with; decides whether logits become probabilities by softmax or sigmoid.
      precision: what it was trained in; "auto" where that is unknown.
      trained_on: its data; None where that is unknown.
      temperature: what log-probabilities are divided by, chosen on validation data; 1 changes nothing.
      thresholds: where an image may have several classes: the probability from which each is predicted; else empty.
      changes: what was done to the weights after they were trained, such as another image size, in order.
    """

    arguments: dict[str, Any]
    preprocessing: Preprocessing
    class_names: tuple[str, ...] = ()
    loss: Loss = "softmax"
    precision: PrecisionOrAuto = "auto"
    trained_on: TrainedOn | None = None
    temperature: float = 1.0
    thresholds: tuple[float, ...] = ()
    changes: tuple[str, ...] = ()

    @property
    def is_multilabel(self) -> bool:
        """Whether an image may have several classes."""
        return bool(self.thresholds)


def set_info(model: nn.Module, info: ModelInfo) -> None:
    """Attaches the information to a model."""
    object.__setattr__(model, "mixonomy_info", info)


def info_of(model: nn.Module) -> ModelInfo:
    """The information attached to a model.

    Raises:
      ValueError: if there is none, as for a module that neither `create`, `load` nor `train` has seen.
    """
    info = getattr(model, "mixonomy_info", None)
    if info is None:
        raise ValueError(
            f"this {type(model).__name__} has no class names and preprocessing; "
            f"train it by mixonomy.train, or attach them by mixonomy.models.set_info."
        )
    return info
