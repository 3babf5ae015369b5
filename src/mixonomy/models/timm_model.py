"""Any model of timm behind our surface: the papers' baselines, which are timm's to write and ours to compare with.

Axes: B images, c image channels, H and W pixels, C features, K classes.
"""

import difflib
import math
import re
import warnings
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from mixonomy.choices import Stem
from mixonomy.models.info import ModelInfo, set_info
from mixonomy.models.timm_stem import SMALL_SIDE, STEMS, make_small, stem_parts
from mixonomy.preprocessing import Preprocessing

PREFIX = "timm:"
ARCHITECTURE = re.compile(r"[a-z0-9_]{1,100}")

# Some of timm's models, which take over a thousand names: those that the papers compare with, and small ones.
CURATED = {
    "timm:resnet50": "the paper's convolutional baseline, without weight standardisation; 26 M parameters",
    "timm:resnetv2_50x1_bit": "BiT ResNet-50x1: GroupNorm, weight standardisation; 26 M",
    "timm:resnetv2_101x1_bit": "BiT ResNet-101x1; 45 M",
    "timm:resnetv2_152x2_bit": "BiT ResNet-152x2; 236 M",
    "timm:botnet26t_256": "BoTNet: a ResNet whose last stages attend; image size is fixed when it is built; 12 M",
    "timm:botnet50ts_256": "BoTNet of 50 layers; 23 M",
    "timm:halonet50ts": "HaloNet: attention in blocks of 8 x 8 locations with their surroundings; 23 M",
    "timm:nfnet_f0": "NFNet: no normalisation at all; 71 M",
    "timm:dm_nfnet_f0": "NFNet as DeepMind's weights need it; 71 M",
    "timm:efficientnet_b0": "EfficientNet-B0; 5 M",
    "timm:resnet10t": "a small ResNet for a CPU; 5 M",
    "timm:resnet18": "a ResNet for a CPU; 12 M",
    "timm:nf_regnet_b0": "a small normaliser-free network for a CPU; 9 M",
}

NARROWABLE = "ResNets, BoTNets, HaloNets, RegNetZs and NFNets"  # as CHANGELOG.md, docs/compare.md and the help say
RESNET_CHANNELS = (64, 128, 256, 512)  # of timm's ResNets
TEST_RESNET_CHANNELS = (32, 48, 48, 96)  # of the one that timm tests with

# What modules raise when an image size or an argument does not suit them.
_REFUSALS = (RuntimeError, AssertionError, ValueError, TypeError, IndexError, ZeroDivisionError)


class TimmModel(nn.Module):
    """A model of timm without its classifier, and a linear head that starts at zero, as all of ours do.

    Features are `forward_head(forward_features(images), pre_logits=True)`. In training timm divides what stochastic
    depth keeps by the probability of keeping it, which our own blocks do not.

    Args:
      body: of timm, built for no classes.
      num_features: C.
      num_classes: K.
      classifier: where timm keeps the classifier in its own weights, such as "fc"; None for none or several.
      head_bias: initial bias of the head.
    """

    def __init__(
        self, body: nn.Module, num_features: int, num_classes: int, *, classifier: str | None, head_bias: float = 0.0
    ):
        super().__init__()
        self.body: Any = body
        self.classifier = classifier
        self.head = nn.Linear(num_features, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, head_bias)

    def features(self, images: Tensor) -> Tensor:
        """[B, c, H, W] -> [B, C], the pre-logits."""
        return _features(self.body, images)

    def forward(self, images: Tensor) -> Tensor:
        """[B, c, H, W] -> [B, K] logits."""
        return self.head(self.features(images))


def create_timm(
    name: str,
    *,
    num_classes: int = 1000,
    image_size: tuple[int, int] = (224, 224),
    in_channels: int = 3,
    stem: Stem = "auto",
    width_factor: float = 1.0,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    head_bias: float = 0.0,
) -> TimmModel:
    """A freshly initialised model of timm, with timm's own initial weights but for the head.

    It gets the plain preprocessing of all fresh models, pixels in [-1, 1]; that of timm's own weights comes with them,
    see `mixonomy.load`.

    Args:
      name: "timm:ARCHITECTURE", without a tag.
      image_size: (height, width) in pixels; passed on where timm's model is built for one size.
      stem: "small" keeps the size of the image in the first layers; "auto" does where a small stem is known and no
        side is longer than 64 pixels.
      width_factor: times the channels of all stages, of timm's ResNet, ByobNet (BoTNet, HaloNet, RegNetZ) and
        NormFreeNet (NFNet).
      dropout: before the head, in training.
      drop_path: stochastic depth, by timm's rule for the model.
    Raises:
      ValueError: for an unknown name, a size or an option that timm's model does not take, and a small stem where none
        is known.
    """
    if stem not in STEMS:
        raise ValueError(f"stem is {stem!r}; use {', '.join(STEMS)}.")
    architecture = architecture_of(name)
    given: dict[str, Any] = {"num_classes": 0, "in_chans": in_channels}
    given |= {"drop_rate": dropout} if dropout else {}
    given |= {"drop_path_rate": drop_path} if drop_path else {}
    narrowed = _narrowed(architecture, width_factor)
    try:
        body, is_small = _body(architecture, image_size, given | narrowed, stem)
    except ValueError:
        if not narrowed or not _can_build(architecture, image_size, given, stem):
            raise
        raise ValueError(
            f"width_factor {width_factor:g} leaves layers of {name} no channels, or a number that they cannot divide "
            f"into groups; give a larger one, or leave it out."
        ) from None
    num_features = _num_features(architecture, body, image_size, in_channels)
    classifier = getattr(body, "pretrained_cfg", {}).get("classifier")
    model = TimmModel(
        body,
        num_features,
        num_classes,
        classifier=classifier if isinstance(classifier, str) else None,
        head_bias=head_bias,
    )
    if in_channels in (1, 3):  # other numbers of channels come from no image file
        arguments = {
            "name": name,
            "num_classes": num_classes,
            "image_size": list(image_size),
            "in_channels": in_channels,
            "stem": "small" if is_small else "imagenet",
            **({} if width_factor == 1.0 else {"width_factor": width_factor}),
        }
        half = (0.5,) * in_channels
        set_info(model, ModelInfo(arguments, Preprocessing(image_size, channels=in_channels, mean=half, std=half)))
    return model


def parts_of(name: str) -> tuple[str, str]:
    """("mixer_b16_224", "goog_in21k") of "timm:mixer_b16_224.goog_in21k"; the tag, which names weights, may be missing.

    Raises:
      ValueError: if timm has no such model; names the nearest.
    """
    import timm

    architecture, _, tag = name.removeprefix(PREFIX).partition(".")
    if not ARCHITECTURE.fullmatch(architecture) or not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=1, cutoff=0.5)
        hint = f"did you mean '{PREFIX}{near[0]}'? " if near else ""
        given = name.removeprefix(PREFIX)[:100]
        raise ValueError(f"timm has no model {given!r}; {hint}`timm.list_models()` shows all its names.")
    return architecture, tag


def architecture_of(name: str) -> str:
    """ "resnet18" of "timm:resnet18".

    Raises:
      ValueError: if timm has no such model, or a tag names weights.
    """
    architecture, tag = parts_of(name)
    if tag:
        raise ValueError(
            f"{name!r} names weights, by the tag {tag!r}; load them by mixonomy.load, or leave the tag out for a fresh "
            f"model."
        )
    return architecture


def timm_names(model: TimmModel) -> dict[str, str]:
    """Our name of each tensor -> the name in timm's own weights.

    Raises:
      ValueError: if timm's model has no classifier of its own, or several.
    """
    if model.classifier is None:
        raise ValueError("timm's model has no classifier of its own, or several; its weights cannot be told apart.")
    return {
        name: f"{model.classifier}.{name.removeprefix('head.')}"
        if name.startswith("head.")
        else name.removeprefix("body.")
        for name in model.state_dict()
    }


def our_names(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """timm's tensors in our names; a classifier that is a 1 x 1 convolution becomes a matrix.

    Args:
      name: "timm:ARCHITECTURE".
    Raises:
      ValueError: if timm has no such model, or its classifier is no one layer.
    """
    classifier = _config(architecture_of(name)).classifier
    if not isinstance(classifier, str):
        raise ValueError(f"the classifier of {name} is no single layer; its weights are not read.")
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if key.startswith(f"{classifier}."):
            is_kernel = tensor.ndim > 2 and tensor[0, 0].numel() == 1
            renamed[f"head.{key.removeprefix(f'{classifier}.')}"] = tensor.flatten(1) if is_kernel else tensor
        else:
            renamed[f"body.{key}"] = tensor
    return renamed


def native_size(architecture: str) -> tuple[int, int]:
    """(height, width) that timm's weights of this architecture are made for."""
    cfg = _config(architecture)
    return (cfg.input_size[1], cfg.input_size[2])


def pool_of(model: TimmModel) -> str | None:
    """How locations become features, in timm's word, such as "avg"."""
    head = getattr(model.body, "head", None)
    pool = getattr(head, "global_pool", None) or getattr(model.body, "global_pool", None)
    pool = getattr(pool, "pool_type", pool)
    return pool if isinstance(pool, str) else None


def is_fixed_size(architecture: str) -> bool:
    """Whether a model of this architecture is built for one image size."""
    return bool(_config(architecture).fixed_input_size)


def _config(architecture: str) -> Any:
    """timm's PretrainedCfg of the architecture's default weights, or timm's defaults where there are none."""
    from timm.models import PretrainedCfg, get_pretrained_cfg

    return get_pretrained_cfg(architecture) or PretrainedCfg()


def _narrowed(architecture: str, width_factor: float) -> dict[str, Any]:
    """The arguments of timm that make a model so many times as wide.

    Raises:
      ValueError: for a factor that is no positive number, and a model whose width timm does not let one choose.
    """
    if not isinstance(width_factor, int | float) or not 0.0 < width_factor < math.inf:
        raise ValueError(f"width_factor is {width_factor!r}; give a number above 0, such as 0.5.")
    if width_factor == 1.0:
        return {}
    from timm.models import model_entrypoint

    kind = model_entrypoint(architecture).__module__.rpartition(".")[2]
    if kind in ("byobnet", "byoanet", "nfnet"):
        return {"width_factor": width_factor}
    if kind == "resnet":
        whole = TEST_RESNET_CHANNELS if architecture == "test_resnet" else RESNET_CHANNELS
        return {"channels": tuple(max(round(channels * width_factor), 1) for channels in whole)}
    raise ValueError(f"width_factor has no effect on {PREFIX}{architecture}; it belongs to timm's {NARROWABLE}.")


def _body(architecture: str, image_size: tuple[int, int], given: dict[str, Any], stem: Stem) -> tuple[nn.Module, bool]:
    """(timm's model without a classifier, whether its stem is the small one).

    Args:
      given: other arguments of timm's.
    """
    is_fixed = is_fixed_size(architecture)
    may_be_small = stem == "small" or (stem == "auto" and max(image_size) <= SMALL_SIDE)
    if not may_be_small:
        return _built(architecture, image_size, given | ({"img_size": image_size} if is_fixed else {})), False
    native = native_size(architecture)
    body = _built(architecture, native, given | ({"img_size": native} if is_fixed else {}))
    if not stem_parts(body):
        if stem == "small":
            raise ValueError(
                f"no small stem is known for {PREFIX}{architecture}, a {type(body).__name__}; leave stem out."
            )
        return _built(architecture, image_size, given | ({"img_size": image_size} if is_fixed else {})), False
    stride = make_small(body)
    if is_fixed:  # timm reckons with its own stem
        enlarged = (image_size[0] * stride, image_size[1] * stride)
        body = _built(architecture, image_size, given | {"img_size": enlarged})
        make_small(body)
    return body, True


def _can_build(architecture: str, image_size: tuple[int, int], given: dict[str, Any], stem: Stem) -> bool:
    try:
        with torch.device("meta"):
            _body(architecture, image_size, given, stem)
    except ValueError:
        return False
    return True


def _built(architecture: str, image_size: tuple[int, int], given: dict[str, Any]) -> nn.Module:
    import timm

    try:
        with warnings.catch_warnings():  # of a width that leaves no channels, which is refused
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            body = timm.create_model(architecture, pretrained=False, **given)
    except _REFUSALS as error:
        raise ValueError(_refusal(architecture, image_size, error, given)) from None
    missing = [part for part in ("forward_features", "forward_head") if not hasattr(body, part)]
    if missing:
        raise ValueError(f"{PREFIX}{architecture} gives no features (it has no {missing[0]}); use another model.")
    return body


def _refusal(architecture: str, image_size: tuple[int, int], error: Exception, given: dict[str, Any]) -> str:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    for option, ours in (("drop_path_rate", "drop_path"), ("drop_rate", "dropout"), ("img_size", "another image size")):
        if option in given and f"'{option}'" in reason:
            return f"{PREFIX}{architecture} takes no {ours}; leave it out."
    native = native_size(architecture)
    return (
        f"{PREFIX}{architecture} cannot read images of {image_size[0]}x{image_size[1]} pixels ({reason}); use "
        f"{native[0]}x{native[1]}, which it was made for, or another model."
    )


def _features(body: Any, images: Tensor) -> Tensor:
    return body.forward_head(body.forward_features(images), pre_logits=True)


class _Features(nn.Module):
    """The features of a model as its forward pass."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        return _features(self.body, images)


def _num_features(architecture: str, body: nn.Module, image_size: tuple[int, int], in_channels: int) -> int:
    """C, from a pass of shapes alone, or of one image where a module computes with values.

    Raises:
      ValueError: if images of this size do not pass.
    """
    was_training = body.training
    body.eval()
    whole = _Features(body)
    state = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in chain(whole.named_parameters(), whole.named_buffers())
    }
    with torch.no_grad():
        try:
            images = torch.empty(2, in_channels, *image_size, device="meta")
            features = torch.func.functional_call(whole, state, (images,))
        except _REFUSALS:
            device = next(iter(body.parameters())).device
            try:
                features = whole(torch.zeros(1, in_channels, *image_size, device=device))
            except _REFUSALS as error:
                raise ValueError(_refusal(architecture, image_size, error, {})) from None
    body.train(was_training)
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise ValueError(f"{PREFIX}{architecture} gives no features [B, C]; use another model.")
    return features.shape[1]


def adapter_to_timm(model: TimmModel, arguments: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors in timm's names and shapes, and the config.json by which timm builds the model.

    Args:
      arguments: of `create`, as `info_of` gives them.
    Raises:
      ValueError: if timm itself cannot build the model.
    """
    import timm

    if arguments["stem"] == "small":
        raise ValueError("its small stem is none of timm's")
    if "width_factor" in arguments:
        raise ValueError("its width is none of timm's")
    architecture, size = architecture_of(arguments["name"]), tuple(arguments["image_size"])
    options: dict[str, Any] = {"num_classes": arguments["num_classes"], "in_chans": arguments["in_channels"]}
    options |= {"img_size": size} if is_fixed_size(architecture) else {}
    state, names = model.state_dict(), timm_names(model)
    with torch.random.fork_rng(devices=[]):
        theirs = timm.create_model(architecture, pretrained=False, **options).state_dict()
    tensors = {theirs_name: state[ours] for ours, theirs_name in names.items()}
    if tensors.keys() != theirs.keys():
        raise ValueError(f"its tensors are not those of timm's {architecture}")
    tensors = {name: tensor.reshape(theirs[name].shape) for name, tensor in tensors.items()}  # 1 x 1 classifiers
    cfg = _config(architecture)
    config = {
        "architecture": architecture,
        "num_classes": arguments["num_classes"],
        "num_features": model.head.in_features,
        "pretrained_cfg": {
            "first_conv": cfg.first_conv,
            "classifier": cfg.classifier,
            "fixed_input_size": bool(cfg.fixed_input_size),
        },
    }
    # Some of timm's functions, such as botnet26t_256, set a size of their own before they look into pretrained_cfg.
    return tensors, config | ({"model_args": {"img_size": list(size)}} if is_fixed_size(architecture) else {})
