"""An experiment before its first step: its data, model and device, from a recipe and what this machine has."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from mixonomy import data, devices, optim, parallel
from mixonomy.loading import as_stored, at_size, regularised
from mixonomy.models import create_from, info_of
from mixonomy.models.checks import digest
from mixonomy.models.surgery import with_head
from mixonomy.models.tuning import HEAD, set_trainable
from mixonomy.preprocessing import DEFAULT_RESIZE, Preprocessing
from mixonomy.recipe import NO_WEIGHTS, Recipe
from mixonomy.train_state import TrainState


@dataclass(frozen=True)
class Runtime:
    """What may differ between two starts of the same run, since it changes no numbers (the device: only rounding).

    Args:
      device: "auto", "cuda", "cuda:1", "mps" or "cpu".
      workers: processes that decode images that do not fit in memory; as many as cores if None.
      data_root: folder of the known data sets; $MIXONOMY_DATA if None.
      checkpoint_minutes: longest time between two checkpoints; there is one at each evaluation too.
      track: names of extra trackers: "tensorboard", "wandb".
    """

    device: str = "auto"
    workers: int | None = None
    data_root: str | None = None
    checkpoint_minutes: float = 5.0
    track: tuple[str, ...] = ()

    def __post_init__(self):
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers is {self.workers}; give 0 or more.")
        if not self.checkpoint_minutes >= 0:
            raise ValueError(f"checkpoint_minutes is {self.checkpoint_minutes}; give 0 or more.")


@dataclass(frozen=True)
class Setup:
    """The data, model and device of an experiment, before its first step.

    Args:
      model: with its initial weights, images float [B, c, H, W] -> logits [B, K]; not yet on the device.
      name, arguments: of the recipe's model, for `mixonomy.create`; arguments are empty for a module of the user's own.
      workers: processes that decode images that do not fit in memory.
      loss: of the recipe, or what suits the data.
      bad: the images that could not be read so far.
      init: SHA-256 of the weights that the model starts from, without their head; None where they are fresh.
      notes: what a person should know, one sentence each.
    """

    device: torch.device
    source: data.Source
    plan: data.Plan
    preprocessing: Preprocessing
    model: nn.Module
    name: str
    arguments: dict[str, Any]
    workers: int
    loss: optim.Loss
    bad: data.BadImages
    init: str | None = None
    notes: tuple[str, ...] = ()

    def train_data(self, recipe: Recipe) -> data.TrainData:
        """The stream of training batches; decodes images that fit in memory now."""
        images = data.train_data(
            self.plan.train,
            recipe.augment,
            self.preprocessing,
            seed=recipe.seed,
            device=self.device,
            workers=self.workers,
            bad=self.bad,
            is_balanced=recipe.balance == "sampling",
        )
        self.check_bad(recipe)
        return images

    def check_bad(self, recipe: Recipe) -> None:
        """Refuses to go on with too many images that cannot be read.

        Raises:
          ValueError: if more were left out than the recipe allows.
        """
        share = recipe.data.max_bad_share
        self.bad.check(len(self.source), data.MAX_BAD_SHARE if share is None else share)

    def state(
        self, recipe: Recipe, precision: devices.Precision, total: int, warmup: int, freeze: int = 0
    ) -> TrainState:
        """The model on its device, with its optimizers."""
        is_multilabel, weights = self.source.is_multilabel, None
        if recipe.balance == "loss":
            counts = self.plan.train.counts(len(self.source.class_names))
            weights = optim.class_weights(counts, len(self.plan.train), is_multilabel=is_multilabel)
        return TrainState(
            recipe,
            self.model.to(self.device),
            self.preprocessing,
            len(self.source.class_names),
            self.device,
            precision,
            total,
            warmup,
            freeze=freeze,
            loss=self.loss,
            weights=weights,
            is_multilabel=is_multilabel,
        )


@dataclass(frozen=True)
class Opened:
    """The data of an experiment and which of it trains; experiments on the same data can share it."""

    source: data.Source
    plan: data.Plan


def open_data(recipe: Recipe, runtime: Runtime, source: data.Source | None = None) -> Opened:
    """Opens the recipe's data, unless it is open already, and divides it.

    Raises:
      ValueError: if it is not there, or cannot be divided.
    """
    source, config = source or data.open_source(recipe.data.source, runtime.data_root), recipe.data
    plan = data.plan_splits(
        source, config.val_share, train_on_val=config.train_on_val, train_images=config.train_images
    )
    return Opened(source, plan)


def set_up(recipe: Recipe, runtime: Runtime, model: nn.Module | None = None, opened: Opened | None = None) -> Setup:
    """Opens the data and makes the recipe's model, or reads the weights that it starts from, unless one is given.

    Args:
      opened: the recipe's data, where it is open already.
    Raises:
      ValueError: for a recipe that does not fit the data or the model.
    """
    if model is not None and recipe.init is not None:
        raise ValueError("init has no effect on a module of your own, which has its weights; leave one of them out.")
    device = parallel.own_device(devices.resolve_device(runtime.device))
    devices.prepare(device)
    opened = open_data(recipe, runtime) if opened is None else opened
    source, plan = opened.source, opened.plan
    loss = _resolve_loss(recipe, source)
    num_classes, init, notes = len(source.class_names), None, source.notes
    torch.manual_seed(recipe.seed)
    name, arguments = type(model).__name__, {}
    if recipe.init is not None:
        model, init, changes = _started(recipe, num_classes)
        arguments = info_of(model).arguments
        name = arguments["name"]
        notes = (*notes, *(f"{recipe.init}: {change}" for change in changes))
    elif model is None:
        sizes = {"num_classes": num_classes, "image_size": recipe.height_width, "in_channels": source.channels}
        model = create_from(recipe.model, **sizes)
        name, arguments = recipe.model.name, info_of(model).arguments
    if arguments and source.is_multilabel and recipe.model.head_bias == 0.0:
        _start_from_frequencies(model, plan.train)
    preprocessing = _preprocessing(recipe, source.channels, model)
    if recipe.freeze is not None:
        set_trainable(model, "head")
    set_trainable(model, recipe.tune)
    model = _for_ranks(model, recipe, device)
    optim.make_optimizers(model, recipe.optim)  # refuses a model that does not suit it before anything is written
    workers = data.default_workers() if runtime.workers is None else runtime.workers
    bad = data.BadImages(recipe.data.on_bad_image)
    return Setup(device, source, plan, preprocessing, model, name, arguments, workers, loss, bad, init, notes)


def _for_ranks(model: nn.Module, recipe: Recipe, device: torch.device) -> nn.Module:
    """The model as several ranks can train it.

    Raises:
      ValueError: if they cannot.
    """
    if recipe.optim.shard and parallel.has_batch_norm(model):
        raise ValueError(
            f"shard is for models without BatchNorm, whose running means no rank has a share of, and this "
            f"{type(model).__name__} has BatchNorm; leave shard out."
        )
    parallel.part(recipe.batch_size)  # refuses fewer images than ranks
    return parallel.with_synced_norms(model, device)


def _started(recipe: Recipe, num_classes: int) -> tuple[nn.Module, str, tuple[str, ...]]:
    """The model of `recipe.init` for these classes and the recipe's image size, with a head of zeros.

    Returns:
      The model, SHA-256 of the weights as they were stored without their head, and what was done to them.
    Source for the zeros: MLP-Mixer paper, section 3 (fine-tuning).
    """
    assert recipe.init is not None, "the caller asked"
    if recipe.init == NO_WEIGHTS:
        raise ValueError(
            f"the recipe {recipe.name} goes on from trained weights; say which by --init: a run folder, a file, "
            f"timm:NAME or hf:OWNER/NAME."
        )
    size = None if recipe.image_size is None else recipe.height_width
    model = as_stored(recipe.init, num_classes=num_classes, size=size)
    info = info_of(model)
    if not info.arguments:
        raise ValueError(f"{recipe.init} was trained from a module of somebody's own; load it and give it as `model`.")
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(HEAD)}
    init = digest(tensors, b"")
    if size is not None:
        model = at_size(model, size)
    model = regularised(model, dropout=recipe.model.dropout, drop_path=recipe.model.drop_path)
    return with_head(model, num_classes), init, info_of(model).changes[len(info.changes) :]


def _start_from_frequencies(model: nn.Module, train: data.Split) -> None:
    """Sets the bias of the head to the log-odds of each class: the first steps need not learn that most are rare.

    Source: Lin et al. 2017, "Focal loss for dense object detection", section 3.3 (a prior for rare classes); the
    frequencies are those of the training images, with one yes and one no added.
    """
    counts = train.counts(train.labels.shape[1])
    odds = torch.from_numpy((counts + 1.0) / (len(train) - counts + 1.0))
    with torch.no_grad():
        model.get_submodule("head").get_parameter("bias").copy_(odds.log())


def _resolve_loss(recipe: Recipe, source: data.Source) -> optim.Loss:
    """The recipe's loss, or the one that suits the data.

    Raises:
      ValueError: for softmax where an image may have several classes.
    """
    if recipe.loss == "softmax" and source.is_multilabel:
        raise ValueError(
            f"{source.name} has images with several labels, and loss=softmax allows one; use --loss sigmoid or auto."
        )
    return recipe.loss if recipe.loss != "auto" else "sigmoid" if source.is_multilabel else "softmax"


def _preprocessing(recipe: Recipe, channels: int, model: nn.Module) -> Preprocessing:
    """The recipe's crop; size, channels and range of pixels are those of the weights where there are any."""
    crop = recipe.data.eval_crop
    resize = DEFAULT_RESIZE if recipe.data.eval_resize is None else recipe.data.eval_resize
    half = (0.5,) * channels
    if recipe.init is not None:
        return replace(info_of(model).preprocessing, crop=crop, resize=resize)
    return Preprocessing(recipe.height_width, channels=channels, crop=crop, resize=resize, mean=half, std=half)
