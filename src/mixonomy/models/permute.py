"""Permutations that layers without neighbours cannot see: shuffled images, and the model that undoes them.

Axes: B images, c channels of an image, S patches in raster order, P patch size.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mixonomy.models.gmlp import GMLP
from mixonomy.models.isotropic import Isotropic, patch_grid
from mixonomy.models.mixer import Mixer
from mixonomy.models.resmlp import ResMLP
from mixonomy.models.vit import PlacedPatches, ViT
from mixonomy.nn import SpatialGatingUnit, TokenLinear, TokenMLP

Permutation = Sequence[int] | Tensor
"""A permutation of range(N): place i of the shuffled whole shows what is at place permutation[i] of the plain one."""


def permuted(model: nn.Module, *, patches: Permutation | None = None, pixels: Permutation | None = None) -> Isotropic:
    """A model that sees shuffled images as the given one sees plain ones: the same logits up to rounding.

    Nothing is trained: the stem's kernels get their pixels in the order of the shuffled image, and every matrix over
    the tokens its rows, columns and biases: in a Mixer the columns of the first and the rows of the second of each
    token MLP, in ResMLP and gMLP both of the one, in a ViT the positions. Means over tokens and attention have no
    order.

    Args:
      model: a Mixer, ViT, ResMLP or gMLP; stays as it is; dtype, device, class names and preprocessing are kept in the
        result.
      patches: of the S patches in raster order; patches[s] is the patch of the plain image shown at place s.
      pixels: of the P * P pixels of each patch in raster order; as they are if not given.
    Returns:
      A model with weights of its own, for what `shuffle_patches` makes of images with the same permutations.
    Raises:
      ValueError: if the model is none of these, a permutation is not one, or neither is given.
    Source: MLP-Mixer paper, section 3.4, which trains on such images; the weights follow from its equation 1.
    """
    if not isinstance(model, Mixer | ViT | ResMLP | GMLP):
        raise ValueError(
            f"only a Mixer, ViT, ResMLP or gMLP can be permuted, not a {type(model).__name__}: its layers know which "
            f"places are neighbours."
        )
    _require_any(patches, pixels)
    result = copy.deepcopy(model)
    with torch.no_grad():
        if pixels is not None:
            kernel = result.stem.proj.weight  # [C, c, P, P]
            size = kernel.shape[-1]
            order = _checked(pixels, size * size, f"pixels of a {size}x{size} patch").to(kernel.device)
            kernel.copy_(kernel.flatten(2)[:, :, order].unflatten(2, (size, size)))
        if patches is not None:
            for module in result.modules():
                _permute_tokens(module, patches)
    return result


def shuffle_patches(
    images: Tensor, patch_size: int, *, patches: Permutation | None = None, pixels: Permutation | None = None
) -> Tensor:
    """Shuffles all images of a batch alike: the order of their patches, and the pixels within each patch.

    With `patch_size` 1, `patches` is one permutation over all pixels of the image, which no Mixer of larger
    patches can undo.

    Args:
      images: [B, c, H, W] of any dtype, such as uint8 or float.
      patch_size: P in pixels, divides H and W.
      patches: of the S = H * W / P^2 patches in raster order; place s gets the patch patches[s].
      pixels: of the P * P pixels of each patch in raster order; place p gets the pixel pixels[p].
    Returns:
      [B, c, H, W], the same dtype and device, in memory of its own.
    Raises:
      ValueError: if P does not divide the image size, a permutation is not one, or neither is given.
    Source: MLP-Mixer paper, section 3.4 and figure 4.
    """
    if images.ndim != 4:
        raise ValueError(f"images have the shape {list(images.shape)}; give [B, c, H, W].")
    if patch_size < 1:
        raise ValueError(f"the patch size is {patch_size}; give at least 1.")
    _require_any(patches, pixels)
    rows, columns = patch_grid((images.shape[2], images.shape[3]), patch_size)
    x = images.unflatten(3, (columns, patch_size)).unflatten(2, (rows, patch_size))
    x = x.transpose(3, 4).flatten(4, 5).flatten(2, 3)  # [B, c, rows, P, columns, P] -> [B, c, S, P * P]
    if patches is not None:
        x = x[:, :, _checked(patches, rows * columns, f"patches of a {rows}x{columns} grid").to(x.device)]
    if pixels is not None:
        what = f"pixels of a {patch_size}x{patch_size} patch"
        x = x[:, :, :, _checked(pixels, patch_size**2, what).to(x.device)]
    x = x.unflatten(3, (patch_size, patch_size)).unflatten(2, (rows, columns))
    return x.transpose(3, 4).flatten(4, 5).flatten(2, 3).contiguous()


def _permute_tokens(module: nn.Module, patches: Permutation) -> None:
    """Puts what a layer itself knows about places into another order; layers that know nothing stay."""
    if isinstance(module, TokenMLP):
        order = _order_of(patches, module.fc1)
        module.fc1.weight.copy_(module.fc1.weight[:, order])
        module.fc2.weight.copy_(module.fc2.weight[order])
        module.fc2.bias.copy_(module.fc2.bias[order])
    elif isinstance(module, TokenLinear | SpatialGatingUnit):
        linear = module if isinstance(module, TokenLinear) else module.proj
        order = _order_of(patches, linear)
        linear.weight.copy_(linear.weight[order][:, order])
        linear.bias.copy_(linear.bias[order])
    elif isinstance(module, PlacedPatches):
        places = module.positions[:, 0 if module.class_token is None else 1 :]  # a view; the class token has no place
        order = _checked(patches, places.shape[1], "patches of this model").to(places.device)
        places.copy_(places[:, order])


def _order_of(patches: Permutation, linear: nn.Linear) -> Tensor:
    return _checked(patches, linear.in_features, "patches of this model").to(linear.weight.device)


def _require_any(patches: Permutation | None, pixels: Permutation | None) -> None:
    if patches is None and pixels is None:
        raise ValueError("nothing to permute; give patches, pixels or both.")


def _checked(permutation: Permutation, size: int, what: str) -> Tensor:
    """The permutation as int64 [size] on the CPU."""
    order = torch.as_tensor(permutation).cpu()
    if order.is_floating_point() or order.dtype == torch.bool or order.ndim != 1:
        raise ValueError(f"a permutation is {order.dtype} {list(order.shape)}; give one row of whole numbers.")
    if not torch.equal(order.sort().values.long(), torch.arange(size)):
        raise ValueError(
            f"a permutation of the {size} {what} holds each number from 0 to {size - 1} once; got {len(order)} numbers"
            + (", some of them twice or out of range." if len(order) == size else ".")
        )
    return order.long()
