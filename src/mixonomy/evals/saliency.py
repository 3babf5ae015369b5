"""Which pixels of an image a classifier looked at, and which token-mixing units the image moved.

Axes: B images, c image channels, H and W pixels, K classes, S tokens, C channels, U units of a token mixer.
"""

import torch
from torch import Tensor, nn

from mixonomy.nn import TokenMLP
from mixonomy.nn.modes import evaluation_mode

CHUNK = 64  # hidden images that go through the model at once


def input_gradient(model: nn.Module, images: Tensor, classes: Tensor | None = None) -> Tensor:
    """How strongly each pixel moves the logit of a class: the largest |d logit / d pixel| over the image's channels.

    Args:
      model: images -> logits [B, K]; its mode, its gradients and its weights stay as they are.
      images: float [B, c, H, W], prepared as the model reads them.
      classes: int64 [B]; what the model predicts if not given.
    Returns:
      float [B, H, W], not negative.
    Source: Simonyan et al. 2014, "Deep inside convolutional networks", section 3.1.
    """
    with evaluation_mode(model), torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        logits = model(leaf)
        chosen = logits.argmax(1) if classes is None else classes.to(logits.device)
        (gradient,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), leaf)
    return gradient.abs().amax(1)


def occlusion(
    model: nn.Module,
    image: Tensor,
    window: int,
    *,
    stride: int | None = None,
    label: int | None = None,
    fill: float = 0.0,
) -> Tensor:
    """How much of a class's probability goes when a square of the image is hidden.

    Args:
      model: images -> logits [B, K]; stays as it is.
      image: float [c, H, W], prepared as the model reads it.
      window: side of the hidden square in pixels.
      stride: pixels from one square to the next; `window` if not given, so that the squares tile the image.
      label: class; what the model predicts if not given.
      fill: value of hidden pixels; 0 is mid-grey in [-1, 1].
    Returns:
      float [rows, columns]: probability (softmax) of the class in the whole image less that with the square hidden;
      negative where hiding helps the class.
    Raises:
      ValueError: if the window does not fit into the image, or the stride is below 1.
    Source: Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks", section 4.2.
    """
    height, width = image.shape[-2:]
    stride = window if stride is None else stride
    if not 1 <= window <= min(height, width):
        raise ValueError(f"the window is {window} pixels; give 1 to {min(height, width)}, the image's shorter side.")
    if stride < 1:
        raise ValueError(f"the stride is {stride} pixels; give at least 1.")
    places = [(y, x) for y in range(0, height - window + 1, stride) for x in range(0, width - window + 1, stride)]
    shape = (len(range(0, height - window + 1, stride)), len(range(0, width - window + 1, stride)))
    with evaluation_mode(model), torch.no_grad():
        whole = model(image[None]).softmax(1)[0]
        chosen = int(whole.argmax()) if label is None else label
        left = []
        for start in range(0, len(places), CHUNK):
            part = places[start : start + CHUNK]
            hidden = image.repeat(len(part), 1, 1, 1)
            for each, (y, x) in zip(hidden, part, strict=True):
                each[:, y : y + window, x : x + window] = fill
            left.append(model(hidden).softmax(1)[:, chosen])
    return (whole[chosen] - torch.cat(left)).reshape(shape)


def token_unit_activity(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """How strongly images move the hidden units of each token MLP: root mean square over the channels, after the GELU.

    Args:
      model: a Mixer, or any model with `TokenMLP`s; stays as it is.
      images: float [B, c, H, W], prepared as the model reads them.
    Returns:
      Name of each token MLP, in the order of the model -> float [B, U]; empty if there is none.
    """
    found: dict[str, Tensor] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, TokenMLP):

            def keep(_: nn.Module, __: tuple[Tensor, ...], hidden: Tensor, name: str = name) -> None:
                by_image = hidden.unflatten(1, (images.shape[0], -1))  # [U, B * C] -> [U, B, C]
                found[name] = by_image.square().mean(2).sqrt().T

            handles.append(module.act.register_forward_hook(keep))
    try:
        with evaluation_mode(model), torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found
