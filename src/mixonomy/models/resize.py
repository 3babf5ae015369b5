"""Gives a trained model another image size, without training: what it computes there is stated, not hoped for.

Axes: S tokens in raster order, C channels, h and w rows and columns of tokens, M copies of the old grid in the new one.
"""

import copy
from dataclasses import replace
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from mixonomy.models.create import as_height_width
from mixonomy.models.info import ModelInfo, set_info
from mixonomy.models.isotropic import nearest_multiples, patch_grid
from mixonomy.models.mixer import Mixer
from mixonomy.models.vit import PlacedPatches, ViT
from mixonomy.nn import Block, PatchEmbed, TokenMLP

Method = Literal["auto", "blocks", "interpolate"]
_M = TypeVar("_M", bound=nn.Module)
Grid = tuple[int, int]
"""(rows, columns) of tokens."""


def resize(model: nn.Module, image_size: int | tuple[int, int], method: Method = "auto") -> nn.Module:
    """The same model for images of another size.

    "blocks" is the paper's scheme for a Mixer, for a height and a width that are multiples of the old ones (they need
    not be the same multiple): the new grid of tokens is cut into blocks of the size of the old grid, and the matrices
    of the token MLPs become block-diagonal, one copy for each block; D_S grows with the number of blocks. The logits
    are then the mean of the given model's logits over the blocks of the image, exactly.

    "interpolate" suits any size: each token MLP reads the tokens resampled to the old grid, and what it writes is
    resampled to the new one, both folded into its matrices, so that D_S stays. Where all tokens are equal, its hidden
    units are exactly what they were, and it writes the old map interpolated, within the range of the old one.

    Of a ViT the positions are resampled in the same way, and the class token's stays; "blocks" is for Mixers only.

    The patch size stays, and so do the other layers.

    Args:
      model: stays as it is; dtype, device, mode, class names and the rest of the preprocessing are kept in the result.
      image_size: pixels, one number or (height, width), multiples of the patch size.
      method: "auto" takes "blocks" where it is possible, else "interpolate"; nothing is done where the size is equal.
    Returns:
      A model with weights of its own; the last of `info_of(model).changes` says what was done.
    Raises:
      ValueError: if the model is of no kind that can be resized, or the size does not suit it or the method.
    Source: MLP-Mixer paper, section 3 and appendix C ("blocks"); "interpolate" is ours, with the triangle filter that
      Pillow resizes images by.
    """
    if method not in get_args(Method):
        raise ValueError(f"unknown method {method!r}; use {', '.join(get_args(Method))}.")
    size = as_height_width(image_size)
    if isinstance(model, Mixer):
        return _resized_mixer(model, size, method)
    if isinstance(model, ViT):
        return _resized_vit(model, size, method)
    raise ValueError(f"a {type(model).__name__} cannot be resized; a Mixer and a ViT can.")


def check_size(model: nn.Module, size: tuple[int, int]) -> None:
    """Refuses a size that the patches of a Mixer or a ViT do not fill; any other model is let through.

    Raises:
      ValueError: naming the nearest sizes that work.
    """
    if isinstance(model, Mixer | ViT):
        assert isinstance(model.stem, PatchEmbed | PlacedPatches), "both begin with patches"
        _new_grid(size, int(model.stem.proj.kernel_size[0]))


def block_places(old: Grid, new: Grid) -> Tensor:
    """Which tokens of the new grid make up each of the blocks of the size of the old grid.

    Returns:
      int64 [M, S of the old grid]: raster positions in the new grid; blocks, and tokens in a block, in raster order.
    """
    (rows, columns), (down, across) = old, (new[0] // old[0], new[1] // old[1])
    places = torch.arange(new[0] * new[1]).reshape(down, rows, across, columns)
    return places.transpose(1, 2).flatten(2).flatten(0, 1)  # [down, across, rows, columns] -> [M, S]


def resampling(old: Grid, new: Grid) -> Tensor:
    """The linear map that resamples a map of the old grid to the new one, by a triangle filter in each direction.

    As wide as the spacing of the coarser grid, so that nothing is skipped where the new grid is coarser.

    Returns:
      float64 [S of the new grid, S of the old grid], not negative, rows with the sum 1.
    """
    return torch.kron(_resampling_of_axis(old[0], new[0]), _resampling_of_axis(old[1], new[1]))


def _resampling_of_axis(old: int, new: int) -> Tensor:
    """float64 [new, old]."""
    spacing = old / new
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * spacing - 0.5
    distances = (torch.arange(old, dtype=torch.float64) - centres[:, None]).abs() / max(spacing, 1.0)
    weights = (1.0 - distances).clamp(min=0.0)
    return weights / weights.sum(1, keepdim=True)


def _resized_mixer(model: Mixer, size: tuple[int, int], method: Method) -> Mixer:
    stem = model.stem
    assert isinstance(stem, PatchEmbed), "a Mixer begins with it"
    patch_size = int(stem.proj.kernel_size[0])
    old, new = _grid_of(model, patch_size, _token_mlp(model).fc1.in_features), _new_grid(size, patch_size)
    if method == "blocks":
        _require_multiple(size, old, new, patch_size)
    elif method == "auto":
        method = "blocks" if _is_multiple(new, old) else "interpolate"
    result = copy.deepcopy(model)
    if new != old:
        with torch.no_grad():
            _resize_token_mlps(result, old, new, method)
    how = {"blocks": "block-diagonal token MLPs, one copy for each block of the old size",
           "interpolate": "interpolated token MLPs"}[method]  # fmt: skip
    sizes = {"tokens_mlp_dim": _token_mlp(result).fc1.out_features}
    return _with_info(result, size, (old[0] * patch_size, old[1] * patch_size), how, sizes)


def _resized_vit(model: ViT, size: tuple[int, int], method: Method) -> ViT:
    if method == "blocks":
        raise ValueError("method 'blocks' is for Mixers; a ViT is resized by 'interpolate'.")
    stem = model.stem
    assert isinstance(stem, PlacedPatches), "a ViT begins with it"
    patch_size, num_class_tokens = int(stem.proj.kernel_size[0]), int(stem.class_token is not None)
    old, new = _grid_of(model, patch_size, stem.positions.shape[1] - num_class_tokens), _new_grid(size, patch_size)
    result = copy.deepcopy(model)
    if new != old:
        fresh = result.stem
        assert isinstance(fresh, PlacedPatches), "it is a copy"
        with torch.no_grad():
            of_class, of_patches = stem.positions[:, :num_class_tokens], stem.positions[:, num_class_tokens:]
            resampled = resampling(old, new).to(of_patches.device) @ of_patches.double()  # [1, S, C] -> [1, new S, C]
            positions = torch.cat([of_class, resampled.to(of_class.dtype)], dim=1)
        fresh.positions = nn.Parameter(positions, requires_grad=stem.positions.requires_grad)
    old_size = (old[0] * patch_size, old[1] * patch_size)
    return _with_info(result, size, old_size, "interpolated positions", {})


def _resize_token_mlps(model: Mixer, old: Grid, new: Grid, method: Method) -> None:
    for block in model.blocks:
        assert isinstance(block, Block) and isinstance(block.token_mixer, TokenMLP), "a Mixer is made of these"
        mlp = block.token_mixer
        if method == "blocks":
            places = block_places(old, new).to(mlp.fc1.weight.device)
            order = places.flatten()
            _replace_linear(mlp, "fc1", _spread(mlp.fc1.weight, places), mlp.fc1.bias.repeat(len(places)))
            bias = torch.empty_like(mlp.fc2.bias.repeat(len(places)))
            bias[order] = mlp.fc2.bias.repeat(len(places))
            _replace_linear(mlp, "fc2", _spread(mlp.fc2.weight.T, places).T.contiguous(), bias)
        else:
            read, write = (t.to(mlp.fc1.weight.device) for t in (resampling(new, old), resampling(old, new)))
            weight, dtype = mlp.fc1.weight, mlp.fc1.weight.dtype
            _replace_linear(mlp, "fc1", (weight.double() @ read).to(dtype), mlp.fc1.bias)
            weight, bias = mlp.fc2.weight.double(), mlp.fc2.bias.double()
            _replace_linear(mlp, "fc2", (write @ weight).to(dtype), (write @ bias).to(dtype))


def _spread(matrix: Tensor, places: Tensor) -> Tensor:
    """[D_S, S] -> [M * D_S, M * S]: copy m of the matrix in rows of its own and the columns places[m], else zero."""
    spread = matrix.new_zeros(len(places), len(matrix), places.numel())
    for copy_of_matrix, columns in zip(spread, places, strict=True):
        copy_of_matrix[:, columns] = matrix
    return spread.flatten(0, 1)


def _replace_linear(mlp: TokenMLP, name: str, weight: Tensor, bias: Tensor) -> None:
    """A linear layer of other sizes in the place of one, trainable or not as that one is."""
    old: nn.Linear = getattr(mlp, name)
    with torch.device("meta"):
        new = type(old)(weight.shape[1], weight.shape[0])
    new.weight = nn.Parameter(weight.detach().clone(), requires_grad=old.weight.requires_grad)
    new.bias = nn.Parameter(bias.detach().clone(), requires_grad=old.bias.requires_grad)
    setattr(mlp, name, new.train(old.training))


def _token_mlp(model: Mixer) -> TokenMLP:
    mixer = model.blocks[0].get_submodule("token_mixer")
    assert isinstance(mixer, TokenMLP), "a Mixer is made of these"
    return mixer


def _grid_of(model: nn.Module, patch_size: int, num_tokens: int) -> Grid:
    """The grid a model was made for: by its info, else a square one."""
    info: ModelInfo | None = getattr(model, "mixonomy_info", None)
    side = round(num_tokens**0.5)
    grid = (side, side) if info is None else patch_grid(info.preprocessing.image_size, patch_size)
    if grid[0] * grid[1] != num_tokens:
        known = "is unknown" if info is None else f"is {grid[0]}x{grid[1]} by its preprocessing"
        raise ValueError(
            f"this {type(model).__name__} has {num_tokens} tokens and their grid {known}; attach a preprocessing with "
            f"its image size by mixonomy.models.set_info."
        )
    return grid


def _new_grid(size: tuple[int, int], patch_size: int) -> Grid:
    return patch_grid(size, patch_size, or_else="; a resized model keeps its patch size")


def _is_multiple(new: Grid, old: Grid) -> bool:
    return new[0] % old[0] == 0 and new[1] % old[1] == 0


def _require_multiple(size: tuple[int, int], old: Grid, new: Grid, patch_size: int) -> None:
    if _is_multiple(new, old):
        return
    sides = (old[0] * patch_size, old[1] * patch_size)
    nearest = nearest_multiples(size, sides)
    raise ValueError(
        f"image size {size[0]}x{size[1]} is no multiple of {sides[0]}x{sides[1]}, which method 'blocks' needs; "
        f"use {nearest}, or method 'interpolate'."
    )


def _with_info(model: _M, size: tuple[int, int], old_size: tuple[int, int], how: str, sizes: dict[str, Any]) -> _M:
    """The model with its info brought up to date, where it has any; `sizes` are those that changed."""
    info: ModelInfo | None = getattr(model, "mixonomy_info", None)
    if info is None or size == old_size:
        return model
    arguments: dict[str, Any] = dict(info.arguments)
    if arguments:  # empty for a model that `create` did not build
        arguments |= {"image_size": list(size), **sizes}
    change = f"resized from {old_size[0]}x{old_size[1]} to {size[0]}x{size[1]} pixels by {how}"
    preprocessing = replace(info.preprocessing, image_size=size)
    changes = (*info.changes, change)
    set_info(model, replace(info, arguments=arguments, preprocessing=preprocessing, changes=changes))
    return model
