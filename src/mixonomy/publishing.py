"""A model for others: a folder with weights, config.json and a model card, and its way to the Hugging Face hub."""

import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mixonomy.inference.exported import ExportedModel
from mixonomy.loading import load
from mixonomy.model_card import Facts, model_card
from mixonomy.models import ModelInfo, TimmModel, info_of
from mixonomy.models.files import write_atomically, write_tensors
from mixonomy.models.hub import CONFIG, WEIGHTS, network_errors, repo_of
from mixonomy.models.timm_model import adapter_to_timm
from mixonomy.models.timm_weights import to_timm
from mixonomy.preprocessing import Preprocessing
from mixonomy.runs import RunFolder

CARD = "README.md"
LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,40}")


def save_pretrained(model: nn.Module | str | Path, folder: str | Path, *, licence: str | None = None) -> None:
    """Writes model.safetensors, config.json and README.md, as the Hugging Face hub has them.

    Where timm has the same model, the tensors have timm's names and config.json is timm's, so that
    `timm.create_model("local-dir:FOLDER", pretrained=True)` gives the same logits. `mixonomy.load` reads either, with
    class names and preprocessing.

    Args:
      model: a run folder, whose scores go into the card, anything else that `load` reads, or a loaded model.
      folder: made if it is not there; files of these names in it are replaced.
      licence: the hub's short name, such as "apache-2.0", for the card; the card says so if there is none.
    Raises:
      ValueError: if the model carries no information or no architecture, or the folder cannot be written.
    """
    _save(model, Path(folder), licence, Path(folder).resolve().name, None)


def push_to_hub(model: nn.Module | str | Path, repo: str, *, private: bool = False, licence: str | None = None) -> str:
    """Puts what `save_pretrained` writes on the Hugging Face hub, as the one who is logged in there.

    Args:
      repo: "owner/name"; made if it is not there.
      private: whether a new one is seen by its owners only; one that is there stays as it is.
    Returns:
      The address of the commit.
    Raises:
      ValueError: if the hub cannot be reached or does not let it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    repo = repo_of(repo)
    with tempfile.TemporaryDirectory() as folder:
        _save(model, Path(folder), licence, repo.partition("/")[2], repo)
        try:
            api = HfApi()
            api.create_repo(repo, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Weights from mixonomy")
        except LocalTokenNotFoundError:
            raise ValueError("nobody is logged in at the hub; run `hf auth login`, or set HF_TOKEN.") from None
        except HfHubHTTPError as error:
            status = getattr(error.response, "status_code", None)
            if status in (401, 403):
                raise ValueError(
                    f"the hub does not let you write to {repo!r}; run `hf auth login` with a token that may write."
                ) from None
            raise ValueError(f"{repo!r} could not be uploaded ({_first_line(error)}); try again later.") from None
        except network_errors() as error:
            raise ValueError(f"{repo!r} could not be uploaded ({_first_line(error)}); try again later.") from None
    return str(commit.commit_url)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300].rstrip(".")


@dataclass(frozen=True)
class _Layout:
    """How the tensors are written.

    Args:
      timm: timm's config.json; None where timm has no such model.
      reason: why it has none.
    """

    tensors: dict[str, Tensor]
    timm: dict[str, Any] | None
    reason: str = ""


def check_licence(licence: str | None) -> None:
    """Refuses what is no short name of a licence on the hub."""
    if licence is not None and not LICENCE.fullmatch(licence):
        raise ValueError(f"licence is {licence!r}; give the hub's short name, such as apache-2.0 or cc-by-4.0.")


def _save(model: nn.Module | str | Path, folder: Path, licence: str | None, name: str, repo: str | None) -> None:
    check_licence(licence)
    run = None if isinstance(model, nn.Module) else run_of(model)
    model = model if isinstance(model, nn.Module) else load(model)
    recipe = None if run is None else run.info()["recipe"]
    write_folder(
        model,
        folder,
        name=name,
        repo=repo,
        licence=licence,
        recipe=recipe,
        result=None if run is None else run.result(),
    )


def write_folder(
    model: nn.Module,
    folder: Path,
    *,
    name: str,
    repo: str | None = None,
    licence: str | None = None,
    recipe: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    for_timm: bool = False,
) -> None:
    """Writes what `save_pretrained` writes; see `mixonomy.model_card.Facts` for what the card says.

    Args:
      for_timm: whether it is of no use where timm cannot read it.
    Raises:
      ValueError: as `save_pretrained`, and if timm has no such model and `for_timm`.
    """
    info = info_of(model)
    if isinstance(model, ExportedModel):
        raise ValueError(f"{model.path} is exported and its weights are no more; publish the run it came from.")
    if not info.arguments:
        raise ValueError(
            f"a {type(model).__name__} of your own is built by your own code; publish that, beside what mixonomy.save "
            f"writes."
        )
    layout = _layout(model, info)
    if for_timm and layout.timm is None:
        raise ValueError(f"timm cannot read this model: {layout.reason}; export it to safetensors.")
    config = {"mixonomy": _described(info)} if layout.timm is None else _with_timm(layout.timm, info)
    facts = Facts(
        name=name,
        repo=repo,
        params=sum(parameter.numel() for parameter in model.parameters()),
        info=info,
        licence=licence,
        recipe=recipe,
        result=result,
        timm=None if layout.timm is None else layout.timm["architecture"],
        reason=layout.reason,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(layout.tensors, info, folder / WEIGHTS, layout.timm)
        write_atomically(folder / CONFIG, (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())
        write_atomically(folder / CARD, model_card(facts).encode())
    except OSError as error:
        raise ValueError(f"cannot write to {folder} ({error.strerror}); give another folder.") from None


def run_of(where: str | Path) -> RunFolder | None:
    """The run folder, where it is one."""
    folder = RunFolder(Path(os.path.expanduser(where)))
    return folder if folder.exists() else None


def _layout(model: nn.Module, info: ModelInfo) -> _Layout:
    try:
        if isinstance(model, TimmModel):
            return _Layout(*adapter_to_timm(model, info.arguments))
        return _Layout(*to_timm(model))
    except ValueError as error:
        return _Layout(model.state_dict(), None, str(error).rstrip("."))


def _described(info: ModelInfo) -> dict[str, Any]:
    """For readers of config.json; `load` reads the same off the file of weights."""
    return {
        "arguments": info.arguments,
        "class_names": list(info.class_names),
        "preprocessing": info.preprocessing.to_dict(),
        "loss": info.loss,
    }


def _with_timm(config: dict[str, Any], info: ModelInfo) -> dict[str, Any]:
    """timm's config.json with the preprocessing and the names of the classes."""
    prepared = info.preprocessing
    pretrained = {
        **config.get("pretrained_cfg", {}),
        "custom_load": False,
        "input_size": [prepared.channels, *prepared.image_size],
        "num_classes": info.arguments["num_classes"],
        "interpolation": "bilinear",
        **_crop(prepared),
        "mean": list(prepared.mean),
        "std": list(prepared.std),
    }
    names = {"label_names": list(info.class_names)} if info.class_names else {}
    return {**config, **names, "pretrained_cfg": pretrained, "mixonomy": _described(info)}


def _crop(prepared: Preprocessing) -> dict[str, Any]:
    """timm's words for our crops (timm data/transforms_factory.py)."""
    if prepared.crop == "squash":
        return {"crop_pct": 1.0, "crop_mode": "squash"}
    if prepared.crop == "pad":
        return {"crop_pct": 1.0, "crop_mode": "border"}
    return {"crop_pct": 1.0 / prepared.resize, "crop_mode": "squash" if prepared.crop == "resize" else "center"}
