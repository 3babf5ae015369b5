"""What a finished run left in its folder, read once for the report and the advice."""

import json
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError, safe_open

from mixonomy.durations import num_steps
from mixonomy.preprocessing import Preprocessing
from mixonomy.recipe import Recipe
from mixonomy.runs import RunFolder, read_metrics


@dataclass(frozen=True)
class FinishedRun:
    """The content of the files of a run.

    Args:
      info, result, test: run.json, result.json and test.json.
      metrics: the rows of metrics.jsonl.
      names: of the classes.
    """

    info: dict[str, Any]
    result: dict[str, Any]
    test: dict[str, Any]
    metrics: list[dict[str, Any]]
    recipe: Recipe
    names: tuple[str, ...]
    preprocessing: Preprocessing

    @property
    def headline(self) -> str:
        """Name of the score that chooses: "top1", or "map" where an image may have several classes."""
        return "map" if "map" in self.result else "top1"

    @property
    def is_multilabel(self) -> bool:
        """Whether an image may have several classes."""
        return self.headline == "map"

    @property
    def score(self) -> float:
        """The headline score on test images."""
        return self.result[self.headline]

    @property
    def planned_steps(self) -> int:
        """Steps that the recipe asks for; an early stop makes fewer."""
        images = self.info["facts"]["images"]
        return num_steps(self.recipe.duration, batch_size=self.recipe.batch_size, num_examples=images)

    @property
    def has_other_model(self) -> bool:
        """Whether the recipe's model had no effect: it came from weights, or was a module of the user's own."""
        return self.recipe.init is not None or self.result["model"] != self.recipe.model.name

    def validation(self, measure: str) -> list[tuple[int, float]]:
        """(step, value) of a measure at each evaluation on validation data; empty without such data."""
        key = f"val/{measure}"
        return [(row["step"], row[key]) for row in self.metrics if key in row]

    @property
    def num_val(self) -> int:
        """Validation images; 0 if nothing was held out."""
        return next((row["val/n"] for row in self.metrics if "val/n" in row), 0)

    @property
    def why_no_val(self) -> str:
        """Why there are no validation images, where there are none."""
        if self.recipe.data.train_on_val:
            return "The images that could be held out were trained on too"
        return "Nothing was held out for validation"

    def label_errors(self) -> dict[str, dict[str, Any]]:
        """Split ("test", "val") -> the number of labels "found" to be probably wrong, and those "listed"."""
        errors = {"test": self.test["label_errors"], "val": self.test.get("val_label_errors")}
        return {split: found for split, found in errors.items() if found is not None}

    def judges_labels(self, least: float) -> bool:
        """Whether the model agrees with so large a share of the labels that its doubts about the others count."""
        return self.result["micro_f1" if self.is_multilabel else "top1"] >= least

    @property
    def train_losses(self) -> list[tuple[int, float]]:
        """(step, mean training loss of the steps since the row before), with all that the recipe adds to the loss."""
        return [(row["step"], row["loss"]) for row in self.metrics if "loss" in row]


def read_finished(folder: RunFolder) -> FinishedRun:
    """Reads the files of a finished run.

    Raises:
      ValueError: if the run is not finished, or one of its files is missing, damaged or of an earlier form.
    """
    folder.check_no_trial()
    info, result = folder.info(), folder.result()
    if result is None:
        raise ValueError(f"the run in {folder.path} is not finished; run the same `mixonomy train` command again.")
    try:
        test = json.loads(folder.test.read_bytes())
        with safe_open(folder.model, framework="pt") as file:
            model = json.loads(file.metadata()["mixonomy"])
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"the run in {folder.path} lacks a file or has a damaged one ({error}).") from None
    if "train_counts" not in test:
        raise ValueError(f"{folder.test} was written by an earlier version, whose runs this one does not report on.")
    return FinishedRun(
        info,
        result,
        test,
        read_metrics(folder.metrics),
        folder.recipe(),
        tuple(model["class_names"]),
        Preprocessing.from_dict(model["preprocessing"]),
    )
