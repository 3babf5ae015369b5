"""What a training step changes, and how: model, average of weights, optimizers.

Several ranks each compute the gradient of their part of a batch, weighed by its share of the batch's images, so that
the sum over the ranks is the gradient of one process, also of parts of different length.

Axes: B images, c image channels, H and W pixels, K classes.
"""

import copy
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixonomy import data, devices, optim, parallel
from mixonomy.checkpoint import Checkpoints, Progress, optimizer_tensors, restore_optimizers, under
from mixonomy.data.mix import mix
from mixonomy.data.stream import mix64
from mixonomy.evals import (
    Classification,
    MultiLabel,
    Predictor,
    choose_thresholds,
    collect,
    fit_temperature,
    normalise,
    score,
    tempered,
)
from mixonomy.models import checkpoint_blocks, load_weights
from mixonomy.models.tuning import Tune, set_trainable, set_training
from mixonomy.preprocessing import Preprocessing
from mixonomy.progress import Console
from mixonomy.recipe import Recipe

TIMED_IMAGES = 64


class TrainState:
    """Model, average and optimizers, and how one step changes them.

    After `restore`, `distribute` spreads it over the ranks; `gather` ends that, before the model is saved.

    Args:
      total, warmup: number of steps of the whole run and of its warm-up, which the schedule needs.
      freeze: first steps that train nothing but the head.
      loss: resolved from the recipe and the data.
      weights: float [K] of the classes in the loss; all the same if None.
      is_multilabel: whether an image may have several classes.
    Raises:
      ValueError: if the recipe asks for what the model cannot do: a compiler, `checkpoint_blocks`, muon's matrices.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        preprocessing: Preprocessing,
        num_classes: int,
        device: torch.device,
        precision: devices.Precision,
        total: int,
        warmup: int,
        *,
        freeze: int = 0,
        loss: optim.Loss,
        weights: Tensor | None = None,
        is_multilabel: bool = False,
    ):
        if recipe.optim.checkpoint_blocks:
            checkpoint_blocks(model)
        self.recipe, self.model, self.preprocessing = recipe, model, preprocessing
        self.num_classes, self.device, self.total = num_classes, device, total
        self.precision: devices.Precision = precision
        self.warmup = warmup
        self.loss: optim.Loss = loss
        self.weights = None if weights is None else weights.to(device)
        self.is_multilabel = is_multilabel
        self.freeze = freeze
        self.tune: Tune = "head" if freeze else recipe.tune
        set_trainable(model, self.tune)
        self.optimizers = optim.make_optimizers(model, recipe.optim)  # they hold nothing that is frozen
        self.average = copy.deepcopy(model).requires_grad_(False) if recipe.optim.ema else None
        self.best: dict[str, Tensor] | None = None
        self.temperature = 1.0
        self.thresholds: tuple[float, ...] = ()
        self.lr = 0.0  # of the last step: the recipe's peak rate times the schedule, before any layer's share of it
        self.network = _compiled(model) if recipe.compile else model
        self.forward = self.network  # what a step calls; of several ranks it sums their gradients
        self._is_replicated = False
        self._whole: nn.Module | None = None  # with weights in shares: a model to fill with them, for evaluation

    def distribute(self) -> None:
        """Spreads the model over the ranks, by `parallel.replicated` or by `parallel.sharded`; nothing for one."""
        if parallel.size() == 1:
            return
        for module in (self.model, self.average):
            if module is not None:
                load_weights(module, parallel.share_tensors(_on_cpu(module.state_dict())), "the first rank's model")
        if self.recipe.optim.shard:
            self._shard()
        else:
            self.forward = parallel.replicated(self.network)
            self._is_replicated = True

    def _shard(self) -> None:
        kept = optimizer_tensors(self.model, self.optimizers)
        self._whole = copy.deepcopy(self.averaged).to("cpu").requires_grad_(False)
        for module in filter(None, (self.model, self.average)):
            parallel.sharded(module, self.device, self.precision)
        self.optimizers = optim.make_optimizers(self.model, self.recipe.optim)
        restore_optimizers(kept, self.model, self.optimizers)
        self.forward = self.network = _compiled(self.model) if self.recipe.compile else self.model

    def gather(self) -> None:
        """Puts the weights that count together on every rank, in place of all that a step needs; training is over."""
        if self._whole is not None:
            self.model, self.average, self._whole = self.usable(), None, None

    def usable(self) -> nn.Module:
        """The module whose weights count, as it can be called for itself. A call of all ranks."""
        if self._whole is None:
            return self.averaged
        tensors = {name: parallel.whole(tensor) for name, tensor in self.averaged.state_dict().items()}
        self._whole.to(self.device)
        load_weights(self._whole, tensors, "the model")
        return self._whole

    @property
    def averaged(self) -> nn.Module:
        """The module whose weights count: the average where there is one."""
        return self.average if self.average is not None else self.model

    def step(self, batch: data.Batch, step: int, *, factor: float | None = None) -> Tensor:
        """One optimizer step; returns the loss, still on the device.

        Args:
          factor: of the peak learning rates; the schedule's if not given.
        """
        config = self.recipe.optim
        if step >= self.freeze:
            self._thaw()
        factor = self._factor(step) if factor is None else factor
        optim.set_lr(self.optimizers, factor)
        self.lr = optim.peak_lr(config) * factor
        images, targets = self._prepared(batch)
        count = len(images) if batch.whole is None else batch.whole.count
        set_training(self.model, self.tune)
        loss = self._backward(images, targets, step, count)
        if config.sam_rho is not None:
            with optim.ascended(self.model, config.sam_rho):
                self._backward(images, targets, step, count)
        if config.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if self.average is not None:
            with torch.no_grad():
                torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                    list(self.average.parameters()), list(self.model.parameters()), 1.0 - config.ema
                )
                for mean, buffer in zip(self.average.buffers(), self.model.buffers(), strict=True):
                    mean.copy_(buffer)
        return loss

    def _prepared(self, batch: data.Batch) -> tuple[Tensor, Tensor]:
        """The images of a batch, normalised and mixed, float [B, c, H, W], and their targets, float [B, K]."""
        images, labels, keys, whole = batch.images, batch.labels, batch.keys, batch.whole
        first_key = before = None
        if whole is not None:
            first_key, before = whole.first_key, whole.before
        if before is not None:  # stands first, to be mixed with the next, and goes then
            images, labels = torch.cat([before[0], images]), torch.cat([before[1], labels])
            keys = np.concatenate([keys[:1], keys])
        images = normalise(devices.on_device(images, self.device), self.preprocessing)
        labels = devices.on_device(labels, self.device)
        targets = optim.soft_targets(labels, self.num_classes, self.recipe.label_smoothing)
        images, targets = mix(images, targets, keys, self.recipe.augment, first_key)
        return (images, targets) if before is None else (images[1:], targets[1:])

    def _backward(self, images: Tensor, targets: Tensor, step: int, count: int) -> Tensor:
        """Adds the gradient of the batch to the weights' own, piece by piece; returns this rank's share of the loss.

        Args:
          images: float [B, c, H, W], normalised and mixed.
          targets: float [B, K].
          count: images of the whole batch, over all ranks.
        """
        # Dropout and stochastic depth are pure functions of (seed, step, rank), for resumed runs and SAM's second pass.
        key = mix64(np.array([self.recipe.seed << 32 | step], dtype=np.uint64))
        if parallel.rank():
            key = mix64(key ^ np.uint64(parallel.rank()))
        torch.manual_seed(int(key[0] >> np.uint64(1)))
        loss_sum = torch.zeros((), device=self.device)
        pieces = self.recipe.optim.accumulate
        for number, (x, y) in enumerate(zip(images.tensor_split(pieces), targets.tensor_split(pieces), strict=True)):
            share = len(x) / count
            if not len(x):  # images that could not be read left fewer than there are pieces
                if parallel.size() == 1:
                    continue
                # The others wait for this rank: it takes part, with an image that weighs nothing.
                x, y = images.new_zeros(1, *images.shape[1:]), targets.new_zeros(1, *targets.shape[1:])
            with parallel.synced(self.forward, is_last=number == pieces - 1):
                with devices.autocast(self.device, self.precision):
                    logits = self.forward(x)
                if logits.shape != y.shape:
                    raise ValueError(
                        f"the model gives {list(logits.shape)} for {len(y)} images of {self.num_classes} classes; "
                        f"it must give [{len(y)}, {self.num_classes}]."
                    )
                loss = optim.classification_loss(logits, y, self.loss, self.weights, is_multilabel=self.is_multilabel)
                loss = loss * share
                (loss * parallel.size()).backward()  # of what the ranks have, the mean is taken
            loss_sum += loss.detach()
        if parallel.size() > 1:
            self._check_gradients()
        return loss_sum

    def _check_gradients(self) -> None:
        """Refuses weights that take no part in the loss, whose gradients ranks would wait for.

        Raises:
          ValueError: naming the first.
        """
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and parameter.grad is None:
                raise ValueError(
                    f"the weight {name} takes no part in the loss, which several ranks must not wait for; leave it out "
                    f"of the model, or train in one process."
                )

    def expected_seconds(self, steps: int) -> float:
        """A guess of how long so many steps take, from two passes of a copy over random pixels; changes nothing.

        Reading images is not in it.
        """
        twin = copy.copy(self)
        twin.model = twin.forward = copy.deepcopy(self.model)
        set_trainable(twin.model, self.recipe.tune)
        set_training(twin.model, self.recipe.tune)
        batch_size = -(-self.recipe.batch_size // parallel.size())
        count = min(batch_size, TIMED_IMAGES)
        shape = (count, self.preprocessing.channels, *self.preprocessing.image_size)
        images, targets = (
            torch.zeros(shape, device=self.device),
            torch.zeros(count, self.num_classes, device=self.device),
        )
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            twin._backward(images, targets, step=0, count=count)
            seconds.append(time.perf_counter() - start)
        passes = 1 if self.recipe.optim.sam_rho is None else 2
        return min(seconds) / count * batch_size * passes * steps

    def predictor(self) -> Predictor:
        """The weights that count, as they will be used."""
        return Predictor(
            self.usable(), self.preprocessing, self.device, self.precision, self.loss, self.temperature,
            self.is_multilabel,
        )  # fmt: skip

    def evaluate(self, images: data.EvalData) -> Classification | MultiLabel:
        """Scores a split with the weights that count."""
        into = MultiLabel(self.num_classes, self.thresholds) if self.is_multilabel else Classification(self.num_classes)
        return score(self.predictor(), images.batches(), into)

    def calibrate(self, images: data.EvalData | None) -> dict[str, Any]:
        """Chooses the temperature, or the thresholds, on validation data; without it they are 1 and 0.5.

        Returns:
          For test.json, where there is validation data: val_label_errors, and where a temperature was chosen
          calibration_before and calibration_after: nll, ece and n with temperature 1 and with the chosen one.
        """
        self.thresholds = (0.5,) * self.num_classes if self.is_multilabel else ()
        if images is None:
            return {}
        found = collect(self.predictor(), images.batches(), len(images), self.num_classes)
        probs, labels, indices = (torch.from_numpy(array) for array in found)
        if self.is_multilabel:
            self.thresholds = tuple(choose_thresholds(probs.numpy(), labels.numpy()))
            scored = MultiLabel(self.num_classes, self.thresholds)
            scored.add(probs, labels, indices)
            return {"val_label_errors": scored.to_dict()["label_errors"]}
        self.temperature = fit_temperature(probs.numpy(), labels.numpy())
        before, after = Classification(self.num_classes), Classification(self.num_classes)
        before.add(probs, labels, indices)
        after.add(torch.from_numpy(tempered(probs.numpy(), self.temperature)), labels, indices)
        return {
            "val_label_errors": after.to_dict()["label_errors"],
            "calibration_before": before.sureness(),
            "calibration_after": after.sureness(),
        }

    def remember_best(self) -> None:
        """Keeps a copy of the weights that count. A call of all ranks."""
        self.best = {name: t.detach().to("cpu", copy=True) for name, t in self.usable().state_dict().items()}

    def take_best(self) -> None:
        """Puts the remembered weights in the place of those that count; does nothing if none are remembered."""
        if self.best is not None:
            load_weights(self.averaged, self.best, "the best checkpoint")

    def tensors(self) -> dict[str, Tensor]:
        """All that the next step depends on, by name; whole, whatever share a rank has. A call of all ranks."""
        parts = {
            "model": self.model.state_dict(),
            "optimizer": optimizer_tensors(self.model, self.optimizers),
        }
        parts |= {"average": self.average.state_dict()} if self.average is not None else {}
        parts |= {"best": self.best} if self.best is not None else {}
        found = {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
        if self._whole is None:
            return found
        return {name: self._put_together(tensor) for name, tensor in found.items()}

    @property
    def tensors_are_copies(self) -> bool:
        """Whether the next step leaves what `tensors` gave as it is: put together of shares, they are in no use."""
        return self._whole is not None

    def _put_together(self, tensor: Tensor) -> Tensor:
        """On the first rank, which writes it, a copy of the whole of a tensor; nothing of it elsewhere."""
        whole = parallel.whole(tensor)
        if parallel.rank() != 0:
            return whole.new_empty(0)
        return whole.detach().to("cpu", copy=whole is tensor)  # what was shared is whole in memory of its own

    def restore(self, checkpoints: Checkpoints, console: Console) -> Progress:
        """Goes back to the newest whole checkpoint, which the first rank reads, or stays at the start."""
        own: dict[str, Tensor] = {}

        def read() -> tuple[Progress, list[str]] | None:
            found = checkpoints.newest()
            if found is None:
                return None
            own.update(found[0])
            return found[1:]

        found = parallel.first(read)
        if found is None:
            return Progress()
        progress, damaged = found
        tensors = parallel.share_tensors(own)
        for problem in damaged:
            console.say(f"{problem}; the checkpoint before it is taken.")
        load_weights(self.model, under("model", tensors), "the checkpoint")
        if self.average is not None:
            load_weights(self.average, under("average", tensors), "the checkpoint")
        if progress.step > self.freeze:
            self._thaw()
        restore_optimizers(under("optimizer", tensors), self.model, self.optimizers)
        self.best = under("best", tensors) or None
        console.say(f"going on from step {progress.step} of {self.total}")
        return progress

    def _thaw(self) -> None:
        """Ends the first steps that trained the head alone; its momentum and the like are kept."""
        if self.tune == self.recipe.tune:
            return
        self.tune, kept = self.recipe.tune, optimizer_tensors(self.model, self.optimizers)
        set_trainable(self.model, self.tune)
        self.optimizers = optim.make_optimizers(self.model, self.recipe.optim)
        restore_optimizers(kept, self.model, self.optimizers)
        if self._is_replicated:  # anew, for the weights that have gradients now
            self.forward = parallel.replicated(self.network)

    def _factor(self, step: int) -> float:
        config = self.recipe.optim
        return optim.lr_factor(step, total=self.total, warmup=self.warmup, schedule=config.schedule, end=config.end)


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """On the first rank, for the others; these need none."""
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()} if parallel.rank() == 0 else {}


def _compiled(model: nn.Module) -> Any:
    if not torch.cuda.is_available() and not devices.has_compiler():
        raise ValueError("compile=True needs a C++ compiler (g++ or clang++), and none is found; install one.")
    return torch.compile(model)
