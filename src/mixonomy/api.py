"""What `import mixonomy` offers: load, save, train, evaluate, predict."""

import os
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from torch import nn

from mixonomy import data, parallel, predicting, probing, runs
from mixonomy.choices import BadImagePolicy, RealBy
from mixonomy.evals import Classification, MultiLabel, Real, imagenet_classes, map_classes, read_real, score
from mixonomy.experiment import Runtime
from mixonomy.inference.exported import ExportedModel
from mixonomy.loading import load
from mixonomy.lr_range import LrTest
from mixonomy.lr_range import find_lr as run_lr_test
from mixonomy.models import TrainedOn, info_of, save_model
from mixonomy.predicting import Image, Prediction, predictor_of
from mixonomy.probing import Probing
from mixonomy.progress import Console
from mixonomy.recipe import Recipe
from mixonomy.report import write_lr_page, write_report
from mixonomy.sweeping import Grid
from mixonomy.sweeping import sweep as run_sweep
from mixonomy.training import train as run_training

__all__ = ["Prediction", "Probing", "Run", "evaluate", "find_lr", "load", "predict", "probe", "save", "train"]


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Args:
      path: of the run folder.
      result: scores on test data and what the run cost, the content of result.json.
    """

    path: Path
    result: dict[str, Any]


def train(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    model: nn.Module | None = None,
    sweep: Grid | None = None,
    runtime: Runtime | None = None,
    console: Console | None = None,
    command: str = "mixonomy.train",
) -> Run:
    """Trains by a recipe and writes the run folder with its report; goes on where an unfinished run stopped.

    Args:
      recipe: the experiment, such as `mixonomy.recipes.load_recipe("digits")`.
      out: the run folder; runs/NAME-HASH of the recipe if not given.
      model: a module of one's own, images float [B, c, H, W] -> logits [B, K], trained in place of the recipe's.
      sweep: fields of the recipe with the values to try on held-out images, such as {"optim.lr": (0.003, 0.01)}; then
        one training with the best on all but the test images, see `mixonomy.sweeping`.
      runtime: device, workers, data root: what changes no numbers.
      console: where to say how it goes; silent if not given.
    Raises:
      ValueError: for a recipe that does not fit the data or the folder, and for a loss that is not finite.
      Interrupted: after Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP, once everything is saved.
    """
    out = Path(out) if out is not None else default_out(recipe, sweep)
    _check_apart(out, recipe.data.source)
    runtime, console = runtime or Runtime(), console or Console(quiet=True)
    if sweep is None:
        result = run_training(recipe, out, model=model, runtime=runtime, console=console, command=command)
    else:
        result = run_sweep(recipe, sweep, out, model=model, runtime=runtime, console=console, command=command)
    folder = runs.RunFolder(out)
    if not parallel.launched_rank() and not folder.report.exists():
        write_report(folder, data_root=runtime.data_root)
    return Run(out, result)


def _check_apart(out: Path, source: str) -> None:
    """Refuses to begin a run among the images of a folder, where its own folders would be taken for classes."""
    if runs.RunFolder(out).exists():
        return
    if out.is_dir() and (image := data.first_image(out)) is not None:
        raise ValueError(f"{out} is a folder of images ({image}) and not of a run; give a new folder as --out.")
    images = data.folder_of(source)
    if images is not None and out.resolve().is_relative_to(images.resolve()):
        raise ValueError(
            f"the run folder {out} would lie in the data {source}, where its folders look like classes; "
            f"give an --out that is not below {images.resolve()}."
        )


def find_lr(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    model: nn.Module | None = None,
    runtime: Runtime | None = None,
    console: Console | None = None,
) -> LrTest:
    """Runs a learning-rate range test: about 100 steps at growing rates, instead of a training.

    Args:
      recipe: whose data, model, optimizer and augmentation are used.
      out: the folder of a run to come, which is not made: the plot is written beside it, see `lr_page`; no page
        if not given.
      model: a module of one's own, as for `train`; it stays as it is.
      runtime: device, workers, data root.
      console: where to say how it goes; silent if not given.
    Returns:
      The suggestion, and the curve it was read off.
    Raises:
      ValueError: for a recipe that does not fit the data, and if the loss falls at no rate.
    """
    test = run_lr_test(recipe, model=model, runtime=runtime, console=console)
    if out is not None:
        write_lr_page(lr_page(out), test, recipe)
    return test


def lr_page(out: str | Path) -> Path:
    """OUT.find-lr.html, beside the run folder OUT."""
    path = Path(out)
    path = path if path.name not in ("", "..") else path.resolve()
    return path.with_name(f"{path.name}.find-lr.html")


def default_out(recipe: Recipe, sweep: Grid | None = None) -> Path:
    """runs/NAME-HASH: the same recipe always gets the same folder, another recipe or sweep another one."""
    name = f"{recipe.name}-{runs.recipe_hash(recipe)}"
    return Path("runs") / (name if sweep is None else f"{name}-sweep-{runs.text_hash(repr(dict(sweep)))}")


def save(model: nn.Module, path: str | Path) -> None:
    """Writes weights, architecture, class names and preprocessing into one .safetensors file."""
    if isinstance(model, ExportedModel):
        raise ValueError(f"{model.path} is exported and its weights are no more; save the run it came from.")
    save_model(model, path)


def evaluate(
    model: nn.Module | str | Path,
    source: str | None = None,
    *,
    split: str | None = None,
    on_bad_image: BadImagePolicy = "error",
    real: str | Path | None = None,
    real_by: RealBy = "name",
    runtime: Runtime | None = None,
) -> Classification | MultiLabel:
    """Scores a classifier on labelled images.

    Args:
      model: a run folder or anything `load` reads, or a loaded model.
      source: a SOURCE string; the data the run was trained on if not given.
      split: "train", "val" or "test": of the run's own data as the run divided it, of other data as they come;
        test if not given, and all images of other data that have one split only.
      on_bad_image: what to do about images that cannot be read: stop, or leave them out.
      real: the file real.json, to score ImageNet's validation images among them by their reassessed labels too.
      real_by: how an image is found in it: by the name that ImageNet gives it, or by its place among all 50,000.
      runtime: device, workers, data root.
    Returns:
      The scores; `MultiLabel` where an image may have several classes.
    Raises:
      ValueError: if the data has classes that the model does not know, there is no such split, or `real` does not
        suit the data.
    """
    runtime = runtime or Runtime()
    if split not in (None, *data.SPLITS):
        raise ValueError(f"unknown split {split!r}; use train, val or test.")
    if real_by not in get_args(RealBy):
        raise ValueError(f"unknown real_by {real_by!r}; use {', '.join(get_args(RealBy))}.")
    if real is None and real_by != "name":
        raise ValueError("real_by has no effect without real, the file real.json; give both.")
    real_labels = read_real(real) if real is not None else None
    if not isinstance(model, nn.Module):
        model = load(model)
    info = info_of(model)
    own = info.trained_on if source is None else None
    if source is None:
        if own is None:
            raise ValueError("these weights name no data; say which by --data SOURCE.")
        source = own.source
    opened = data.open_source(source, runtime.data_root)
    kept_apart = {"test", "val"} if split in (None, "test") else {split}  # val is the test data of a source without
    if own is not None and own.digest != opened.digest() and not kept_apart & opened.splits.keys():
        raise ValueError(
            f"{source} has other images or labels than when the model was trained, so which of them it learned from is "
            f"not known; give --data {source} to score it as other data, or data with a test split."
        )
    images = _choose(opened, info.trained_on, split)
    predictor = predictor_of(model, runtime.device)
    workers = data.default_workers() if runtime.workers is None else runtime.workers
    label_map = map_classes(info.class_names, opened.class_names) if info.class_names else None
    if info.class_names and images.is_multilabel != info.is_multilabel:
        kinds = {True: "several labels for an image", False: "one label for each image"}
        raise ValueError(f"the data has {kinds[images.is_multilabel]} and the model was trained on "
                         f"{kinds[info.is_multilabel]}; give data of the model's kind.")  # fmt: skip
    num_classes = len(info.class_names) or len(opened.class_names)
    into = MultiLabel(num_classes, info.thresholds) if images.is_multilabel else Classification(num_classes)
    if real_labels is not None:
        if isinstance(into, MultiLabel):
            raise ValueError(f"{opened.name} has images with several labels, which ReaL is not for; leave it out.")
        classes = imagenet_classes(num_classes, opened.imagenet_indices, label_map, opened.name)
        if real_by == "index":
            of_data = classes if label_map is None else classes[label_map.numpy()]
            into.real = Real.in_order(real_labels, images.labels, of_data, classes)
        else:
            into.real = Real.of_names(real_labels, images.names, classes)
    bad = data.BadImages(on_bad_image)
    return score(
        predictor, data.EvalData(images, info.preprocessing, workers=workers, bad=bad).batches(), into, label_map
    )


def _choose(opened: data.Source, trained_on: TrainedOn | None, split: str | None) -> data.Split:
    """The images to score; of the training data only those that a training run keeps apart."""
    is_own = trained_on is not None and trained_on.digest == opened.digest()
    if not is_own and len(opened.splits) == 1 and split in (None, *opened.splits):
        return next(iter(opened.splits.values()))
    if "train" not in opened.splits and (found := opened.splits.get(split or "test")):
        return found
    own = trained_on if is_own else None
    plan = (
        data.plan_splits(opened, 0.0)
        if own is None
        else data.plan_splits(opened, own.val_share, train_on_val=own.with_val, train_images=own.train_images)
    )
    if (images := {"train": plan.train, "val": plan.val, "test": plan.test}[split or "test"]) is None:
        raise ValueError(f"{opened.name} has no validation data here; use train or test.")
    return images


def predict(
    model: nn.Module | str | Path,
    images: Iterable[Image],
    *,
    top: int = 5,
    runtime: Runtime | None = None,
) -> Generator[Prediction, None, None]:
    """Classifies images one after another, in order; one that cannot be read gets an error and stops nothing.

    Args:
      model: a loaded model, or anything `load` reads.
      images: files (str or Path), PIL images, or uint8 arrays [H, W] or [H, W, 3]; any number of them, drawn as needed.
      top: number of classes to name for each, at most as many as there are.
      runtime: device, and workers: how many threads decode.
    Raises:
      ValueError: if there is no such model, `top` is below 1, or something else than an image is among them.
    """
    if not isinstance(model, nn.Module):
        model = load(model)
    runtime = runtime or Runtime()
    return predicting.predict(model, images, top=top, device=runtime.device, workers=runtime.workers)


def probe(
    model: nn.Module | str | Path,
    source: str,
    *,
    probes: Sequence[probing.Kind] = ("ridge",),
    shots: Sequence[int] | None = None,
    num_seeds: int | None = None,
    on_bad_image: BadImagePolicy = "error",
    cache: str | Path | None = probing.CACHE,
    runtime: Runtime | None = None,
) -> Probing:
    """Scores simple classifiers on the features of a model, which stays as it is: what it is worth for other data.

    All are fitted to training images and scored once on test images, see `mixonomy.data.plan_splits`; only the l2 of
    the linear probe is chosen, on validation images or a held-out tenth of train, which it is then fitted to as well.

    Args:
      model: a run folder or anything `load` reads, or a loaded model with a method `features`.
      source: a SOURCE string.
      probes: "ridge", few images of each class, in closed form; "linear", logistic regression on all; "knn", the
        nearest 20 of all.
      shots: images of each class that ridge gets; 1, 5, 10 and 25 if not given.
      num_seeds: draws of them; 3 if not given.
      on_bad_image: what to do about images that cannot be read: stop, or leave them out.
      cache: folder where features are kept, found again by what they depend on; None keeps nothing.
      runtime: device, workers, data root.
    Raises:
      ValueError: if the data has no training images or several labels for an image, or an option has no effect.
    """
    runtime = runtime or Runtime()
    if not isinstance(model, nn.Module):
        model = load(model)
    return probing.probe(
        model,
        data.open_source(source, runtime.data_root),
        probes=probes,
        shots=shots,
        num_seeds=num_seeds,
        device=runtime.device,
        workers=runtime.workers,
        bad=data.BadImages(on_bad_image),
        cache=None if cache is None else Path(os.path.expanduser(cache)),
    )
