"""A model as evaluation uses it: uint8 images in, probabilities out, with the precision it was trained in.

Axes: B images, c image channels, H and W pixels, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixonomy.choices import Loss, Precision
from mixonomy.devices import autocast, on_device
from mixonomy.inference.exported import ExportedModel
from mixonomy.preprocessing import Preprocessing


def normalise(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 [B, c, H, W] -> float32 of the same shape: scaled to [0, 1], less the mean, over the deviation."""
    mean, std = (
        on_device(torch.tensor(v, dtype=torch.float32), images.device).view(1, -1, 1, 1)
        for v in (preprocessing.mean, preprocessing.std)
    )
    return (images.float() / 255.0 - mean) / std


def probabilities(logits: Tensor, loss: Loss, temperature: float, *, is_multilabel: bool) -> Tensor:
    """[B, K] -> [B, K] of the same dtype; arguments as of `Predictor`."""
    if is_multilabel:
        return logits.sigmoid()
    # Dividing sigmoids by their sum is the softmax of their logarithms.
    logs = logits if loss == "softmax" else torch.nn.functional.logsigmoid(logits)
    return (logs / temperature).softmax(1)


@dataclass(frozen=True)
class Predictor:
    """Calls a model on uint8 images.

    Args:
      loss: what the model was trained with; decides whether logits become probabilities by softmax or sigmoid.
      temperature: what log-probabilities are divided by; chosen on validation data, 1 changes nothing.
      is_multilabel: whether each class has a probability of its own; else they are scaled to the sum 1.
    """

    model: nn.Module
    preprocessing: Preprocessing
    device: torch.device
    precision: Precision
    loss: Loss = "softmax"
    temperature: float = 1.0
    is_multilabel: bool = False

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [B, c, H, W] -> float64 probabilities [B, K] on the CPU."""
        was_training = self.model.training
        self.model.eval()
        with autocast(self.device, self.precision):
            is_exported = isinstance(self.model, ExportedModel)  # it normalises by itself
            images = images if is_exported else normalise(images.to(self.device), self.preprocessing)
            logits = self.model(images)
        self.model.train(was_training)
        logits = logits.cpu().double()  # exact even for extreme logits; not every device has float64
        return probabilities(logits, self.loss, self.temperature, is_multilabel=self.is_multilabel)
