"""What `import mixonomy` offers: load, save, train, evaluate, predict."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from mixonomy import data, devices, runs
from mixonomy.data.decode import decode
from mixonomy.data.transforms import evaluation_crop
from mixonomy.evals import Classification, MultiLabel, Predictor, map_classes, score
from mixonomy.experiment import Runtime
from mixonomy.lr_range import LrTest
from mixonomy.lr_range import find_lr as run_lr_test
from mixonomy.models import TrainedOn, info_of, read_npz, read_safetensors, save_model
from mixonomy.progress import Console
from mixonomy.recipe import Recipe
from mixonomy.report import write_lr_page, write_report
from mixonomy.training import train as run_training

PREDICT_BATCH = 64


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
    runtime: Runtime | None = None,
    console: Console | None = None,
    command: str = "mixonomy.train",
) -> Run:
    """Trains by a recipe and writes the run folder with its report; goes on where an unfinished run stopped.

    Args:
      recipe: the experiment, such as `mixonomy.recipes.load_recipe("digits")`.
      out: the run folder; runs/NAME-HASH of the recipe if not given.
      model: a module of one's own, images float [B, c, H, W] -> logits [B, K], trained in place of the recipe's.
      runtime: device, workers, data root: what changes no numbers.
      console: where to say how it goes; silent if not given.
    Raises:
      ValueError: for a recipe that does not fit the data or the folder, and for a loss that is not finite.
      Interrupted: after Ctrl-C, once everything is saved.
    """
    out = Path(out) if out is not None else default_out(recipe)
    runtime, console = runtime or Runtime(), console or Console(quiet=True)
    result = run_training(recipe, out, model=model, runtime=runtime, console=console, command=command)
    folder = runs.RunFolder(out)
    if not folder.report.exists():
        write_report(folder, data_root=runtime.data_root)
    return Run(out, result)


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


def default_out(recipe: Recipe) -> Path:
    """runs/NAME-HASH: the same recipe always gets the same folder, another recipe another one."""
    return Path("runs") / f"{recipe.name}-{runs.recipe_hash(recipe)}"


def load(where: str | Path, *, model: nn.Module | None = None) -> nn.Module:
    """Loads a classifier, in evaluation mode, with its class names and preprocessing.

    Args:
      where: a run folder, a .safetensors file that mixonomy wrote, or a Mixer in Google's .npz layout.
      model: the module to fill, where the run trained one of one's own.
    Raises:
      ValueError: if there is nothing there, or it is damaged, or does not fit; nothing is ever unpickled.
    """
    path = Path(where).expanduser()
    if path.is_dir():
        folder = runs.RunFolder(path)
        folder.info()
        if not folder.model.exists():
            raise ValueError(f"the run in {path} is not finished; run the same `mixonomy train` command again.")
        path = folder.model
    if not path.is_file():
        raise ValueError(f"no file or run folder {where}; give a run folder, a .safetensors or an .npz file.")
    if path.suffix == ".npz":
        return read_npz(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path, model)
    raise ValueError(f"{path} is neither a run folder nor .safetensors nor .npz; other formats are not read.")


def save(model: nn.Module, path: str | Path) -> None:
    """Writes weights, architecture, class names and preprocessing into one .safetensors file."""
    save_model(model, path)


def evaluate(
    model: nn.Module | str | Path,
    source: str | None = None,
    *,
    split: str | None = None,
    on_bad_image: Literal["error", "skip"] = "error",
    runtime: Runtime | None = None,
) -> Classification | MultiLabel:
    """Scores a classifier on labelled images.

    Args:
      model: a run folder or anything `load` reads, or a loaded model.
      source: a SOURCE string; the data the run was trained on if not given.
      split: "train", "val" or "test": of the run's own data as the run divided it, of other data as they come;
        test if not given, and all images of other data that have one split only.
      on_bad_image: what to do about images that cannot be read: stop, or leave them out.
      runtime: device, workers, data root.
    Returns:
      The scores; `MultiLabel` where an image may have several classes.
    Raises:
      ValueError: if the data has classes that the model does not know, or there is no such split.
    """
    runtime = runtime or Runtime()
    if split not in (None, *data.SPLITS):
        raise ValueError(f"unknown split {split!r}; use train, val or test.")
    if not isinstance(model, nn.Module):
        model = load(model)
    info = info_of(model)
    if source is None:
        if info.trained_on is None:
            raise ValueError("these weights name no data; say which by --data SOURCE.")
        source = info.trained_on.source
    opened = data.open_source(source, runtime.data_root)
    images = _choose(opened, info.trained_on, split)
    predictor = _predictor(model, runtime)
    workers = data.default_workers() if runtime.workers is None else runtime.workers
    label_map = map_classes(info.class_names, opened.class_names) if info.class_names else None
    if info.class_names and images.is_multilabel != info.is_multilabel:
        kinds = {True: "several labels for an image", False: "one label for each image"}
        raise ValueError(f"the data has {kinds[images.is_multilabel]} and the model was trained on "
                         f"{kinds[info.is_multilabel]}; give data of the model's kind.")  # fmt: skip
    num_classes = len(info.class_names) or len(opened.class_names)
    into = MultiLabel(num_classes, info.thresholds) if images.is_multilabel else Classification(num_classes)
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
    plan = data.plan_splits(opened, trained_on.val_share if is_own and trained_on else 0.0)
    if (images := {"train": plan.train, "val": plan.val, "test": plan.test}[split or "test"]) is None:
        raise ValueError(f"{opened.name} has no validation data here; use train or test.")
    return images


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image: the likeliest classes, or why it could not be read."""

    path: str
    classes: tuple[tuple[str, float], ...] = ()
    error: str | None = None


def predict(
    model: nn.Module | str | Path,
    paths: Sequence[str | Path],
    *,
    top: int = 5,
    runtime: Runtime | None = None,
) -> Iterable[Prediction]:
    """Classifies image files, in order; an unreadable file gets an error of its own and stops nothing.

    Args:
      model: a loaded model, or anything `load` reads.
      paths: image files.
      top: number of classes to name for each.
    """
    if not isinstance(model, nn.Module):
        model = load(model)
    info, predictor = info_of(model), _predictor(model, runtime or Runtime())
    for start in range(0, len(paths), PREDICT_BATCH):
        chunk = paths[start : start + PREDICT_BATCH]
        inputs, errors = {}, {}
        for path in chunk:
            try:
                pixels = decode(Path(path).read_bytes(), info.preprocessing.channels)
                inputs[path] = evaluation_crop(pixels, info.preprocessing)
            except (ValueError, OSError) as error:
                errors[path] = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        probs = dict(zip(inputs, predictor(torch.stack(list(inputs.values()))), strict=True)) if inputs else {}
        for path in chunk:
            if path in errors:
                yield Prediction(str(path), error=errors[path])
                continue
            best = probs[path].topk(min(top, len(probs[path])))
            names = [info.class_names[i] if info.class_names else str(i) for i in best.indices.tolist()]
            yield Prediction(str(path), tuple(zip(names, best.values.tolist(), strict=True)))


def _predictor(model: nn.Module, runtime: Runtime) -> Predictor:
    """The model on its device, in the precision and with the loss it was trained with."""
    info, device = info_of(model), devices.resolve_device(runtime.device)
    devices.prepare(device)
    return Predictor(
        model.to(device),
        info.preprocessing,
        device,
        devices.resolve_precision(info.precision, device),
        info.loss,
        info.temperature,
        info.is_multilabel,
    )
