"""What each layer of a model mixes, and what that costs: parameters, multiplications and memory by role.

Axes: B images, S tokens, C channels.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mixonomy.nn import MixingPattern, mixing_pattern
from mixonomy.studies.trace import INPUT, Call, ModuleTrace, trace

Role = Literal["channels", "locations", "both", "neither"]
ROLES: tuple[Role, ...] = ("channels", "locations", "both", "neither")

# Classes that are one layer though they have parts: attention, gating units, and MLPs, whose second half lives on an
# axis of its own. Modules that multiply matrices in their own `forward` are one layer too, whatever their name.
WHOLE = re.compile(r"Attention|Attn|GatingUnit|Gate|Squeeze|SEModule|M(?:lp|LP)$")

# A layer that works on any number of locations is probed on this many tokens, or pixels a side, at most.
SMALL_TOKENS, SMALL_SIDE = 16, 8
NEITHER = MixingPattern(locations=False, channels=False)
AXES = "only [B, C], [B, S, C] and [B, C, H, W] have locations and channels"


@dataclass(frozen=True)
class Cost:
    """What a layer needs.

    Args:
      parameters: numbers; shared ones count where they come first.
      macs: multiplications with addition for one image, see `mixonomy.studies.trace`.
      activation_bytes: kept for the backward pass of one image.
    """

    parameters: int = 0
    macs: int = 0
    activation_bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.parameters + other.parameters,
            self.macs + other.macs,
            self.activation_bytes + other.activation_bytes,
        )


@dataclass(frozen=True)
class Layer:
    """A layer of a model.

    Args:
      name: as in `named_modules`.
      kind: its class; for what a module with parts does itself (position embeddings, layer scale) "... itself".
      pattern: what it mixes.
      cost: of the layer, all parts included.
    """

    name: str
    kind: str
    pattern: MixingPattern
    cost: Cost

    @property
    def role(self) -> Role:
        """channels: at a location; locations: across them; both; neither."""
        locations, channels = self.pattern
        return ("both" if channels else "locations") if locations else ("channels" if channels else "neither")


@dataclass(frozen=True)
class Group:
    """Layers whose names differ in numbers only, such as the token MLPs of all blocks.

    Args:
      name: of the layers, with * for numbers.
      kind, role: of each.
      num_layers: how many they are.
      cost: of all together.
    """

    name: str
    kind: str
    role: Role
    num_layers: int
    cost: Cost


@dataclass(frozen=True)
class Taxonomy:
    """A model taken apart.

    Args:
      model: its name.
      image_size: (height, width) in pixels, that macs and memory are for.
      layers: in the order of `named_modules`.
    """

    model: str
    image_size: tuple[int, int]
    layers: tuple[Layer, ...]

    def by_role(self) -> dict[Role, Cost]:
        """The cost of all layers of each role; each of the four is there."""
        return {role: sum((x.cost for x in self.layers if x.role == role), Cost()) for role in ROLES}

    def groups(self) -> list[Group]:
        """The layers, alike ones together, in the order of the first of each."""
        found: dict[tuple[str, str, Role], list[Layer]] = {}
        for layer in self.layers:
            name = re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", layer.name) or "(the model)"
            found.setdefault((name, layer.kind, layer.role), []).append(layer)
        return [Group(*key, len(layers), sum((x.cost for x in layers), Cost())) for key, layers in found.items()]

    def total(self) -> Cost:
        """The cost of the whole model."""
        return sum((layer.cost for layer in self.layers), Cost())

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "model": self.model,
            "image_size": list(self.image_size),
            "total": vars(self.total()),
            "roles": {role: vars(cost) for role, cost in self.by_role().items()},
            "layers": [
                {"name": x.name, "kind": x.kind, "role": x.role, **x.pattern._asdict(), **vars(x.cost)}
                for x in self.layers
            ],
        }


def taxonomy(
    model: nn.Module, name: str, *, image_size: tuple[int, int] = (224, 224), in_channels: int = 3
) -> Taxonomy:
    """Says for each layer of a model what it mixes and what it costs.

    A layer is a module without parts, or one of `WHOLE`, or one that multiplies matrices in its own `forward`. What
    it mixes is found by `mixing_pattern`, layer by layer, so a function that is no module (a mean over tokens, a
    skip) has no line; none of those multiplies matrices. Nor have layers that neither mix nor cost anything.

    Layers are called again alone, on the input shape of the whole model's forward pass (smaller where the layer
    takes that) and with their other arguments. Where the input's axes stand follows from shapes: in
    `mlp(x.transpose(1, 2))` inside a module of [B, S, C] they are [B, C, S]; of four axes, the grid is the neighbouring
    two that are as high to wide as the image, or as many as the locations of the module around. Shapes that fit
    both ways (S = C) are read as they usually stand.

    Args:
      model: images [B, in_channels, H, W] -> one output; stays as it is.
      name: of the model, for the result.
      image_size: (height, width) in pixels.
    Raises:
      ValueError: if the input or output of a layer has other than two, three or four axes.
    """
    reference = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    images = torch.zeros(1, in_channels, *image_size, dtype=reference.dtype, device=reference.device)
    traces = trace(model, images)
    modules = dict(model.named_modules())
    layouts = _layouts(traces, image_size)
    whole = {
        name
        for name, module in modules.items()
        if not any(module.children()) or traces[name].macs or (name and WHOLE.search(type(module).__name__))
    }
    costs: dict[str, Cost] = {}
    counted: set[int] = set()
    for path, module in modules.items():
        own = [p for p in module.parameters(recurse=False) if id(p) not in counted]
        counted |= {id(p) for p in own}
        cost = Cost(sum(p.numel() for p in own), traces[path].macs, traces[path].activation_bytes)
        owner = next((outer for outer in _outwards(path) if outer in whole), path)
        costs[owner] = costs.get(owner, Cost()) + cost
    known: dict[Any, MixingPattern] = {}
    layers: list[Layer] = []
    for path, cost in costs.items():
        kind, call = type(modules[path]).__name__, traces[path].call
        if path not in whole:
            layers.append(Layer(path, f"{kind} itself", NEITHER, cost))
        elif call is not None and call.shape is not None and not (traces[path].is_view and cost == Cost()):
            layers.append(Layer(path, kind, _pattern(path, modules[path], call, layouts.get(path), known), cost))
        else:
            layers.append(Layer(path, kind, NEITHER, cost))  # has no input, is never called, or only reshapes
    return Taxonomy(name, image_size, tuple(x for x in layers if x.pattern != NEITHER or x.cost != Cost()))


def _outwards(path: str) -> Sequence[str]:
    """The names of the modules around this one, the model itself first: "", "a", "a.b" for "a.b"."""
    parts = path.split(".") if path else []
    return [".".join(parts[:i]) for i in range(len(parts) + 1)]


@dataclass(frozen=True)
class _Layout:
    """Where the axes of an input stand.

    Args:
      order: of the axes, that makes it [B, S, C] or [B, C, H, W]; None for [B, C].
      shape: in that order; [B, 1, C] for [B, C].
    """

    order: tuple[int, ...] | None
    shape: tuple[int, ...]

    @property
    def num_channels(self) -> int:
        return self.shape[2] if len(self.shape) == 3 else self.shape[1]

    @property
    def num_locations(self) -> int:
        return self.shape[1] if len(self.shape) == 3 else math.prod(self.shape[2:])


def _layouts(traces: dict[str, ModuleTrace], image_size: tuple[int, int]) -> dict[str, _Layout]:
    """The layout of each module's input; none where it cannot be told, as in the inside of attention."""
    layouts: dict[str, _Layout] = {}

    def find(path: str) -> _Layout | None:
        call = traces[path].call
        if path not in layouts and call is not None and call.shape is not None and len(call.shape) in (2, 3, 4):
            around = None if call.parent is None else find(call.parent)
            layouts[path] = _layout(call.shape, around, image_size)
        return layouts.get(path)

    for path in traces:
        find(path)
    return layouts


def _layout(shape: tuple[int, ...], around: _Layout | None, image_size: tuple[int, int]) -> _Layout:
    if len(shape) == 2:
        return _Layout(None, (shape[0], 1, shape[1]))
    if len(shape) == 4:
        is_first, is_last = (_is_grid(sides, image_size, around) for sides in (shape[2:], shape[1:3]))
        order = (0, 3, 1, 2) if is_last and not is_first else (0, 1, 2, 3)
    else:
        order = (0, 1, 2)
        if around is not None and shape[1] != around.num_locations:
            has_tokens_last = shape[2] == around.num_locations
            has_channels_second = shape[1] == around.num_channels != shape[2]
            order = (0, 2, 1) if has_tokens_last or has_channels_second else order
    return _Layout(order, tuple(shape[axis] for axis in order))


def _is_grid(sides: tuple[int, ...], image_size: tuple[int, int], around: _Layout | None) -> bool:
    has_shape_of_image = sides[0] * image_size[1] == sides[1] * image_size[0]
    return has_shape_of_image or (around is not None and math.prod(sides) == around.num_locations)


class _Alone(nn.Module):
    """A layer as a function of its first tensor, [B, S, C] or [B, C, H, W], called as the model called it."""

    def __init__(self, layer: nn.Module, call: Call, order: tuple[int, ...] | None):
        super().__init__()
        self.layer, self.call, self.order = layer, call, order

    def forward(self, x: Tensor) -> Tensor:
        if self.order is None:
            x = x.squeeze(1)  # [B, 1, C] -> [B, C]
        else:
            x = x.permute([self.order.index(axis) for axis in range(x.ndim)])

        def fill(value: Any) -> Any:
            if value is INPUT:
                return x
            is_float = isinstance(value, Tensor) and value.is_floating_point()
            return value.to(x) if is_float else value

        args, kwargs = tree_map(fill, (self.call.args, self.call.kwargs))
        y = self.layer(*args, **kwargs)
        y = next(part for part in y if isinstance(part, Tensor)) if isinstance(y, tuple | list) else y
        if y.ndim not in (2, 3, 4):
            raise ValueError(f"puts out the shape {list(y.shape)}; {AXES}.")
        return y.permute(self.order) if self.order is not None and y.ndim == len(self.order) else y


def _pattern(path: str, layer: nn.Module, call: Call, layout: _Layout | None, known: dict) -> MixingPattern:
    """The pattern of a layer; layers of the same printed form, input shape and layout are probed once."""
    what = f"layer {path} ({type(layer).__name__})"
    if layout is None:
        raise ValueError(f"{what} gets an input of shape {list(call.shape or ())}; {AXES}.")
    key = (repr(layer), layout)
    if key not in known:
        try:
            known[key] = _probed(_Alone(layer, call, layout.order), layout.shape)
        except ValueError as error:
            raise ValueError(f"{what} {error}") from error
    return known[key]


def _probed(alone: _Alone, shape: tuple[int, ...]) -> MixingPattern:
    if len(shape) == 3:
        small = (1, min(shape[1], SMALL_TOKENS), shape[2])
    else:
        small = (1, shape[1], *(min(side, SMALL_SIDE) for side in shape[2:]))
    if small != (1, *shape[1:]):
        try:
            return mixing_pattern(alone, torch.empty(small))
        except (RuntimeError, ValueError, AssertionError):  # it needs the number of locations that it was made for
            pass
    return mixing_pattern(alone, torch.empty(shape))
