"""The run folder: run.json, metrics.jsonl, checkpoints/, model.safetensors, test.json, result.json, report.html."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mixonomy.models.files import write_atomically

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

if TYPE_CHECKING:
    from mixonomy.recipe import Recipe

FORMAT = 1
MAY_CHANGE = ("on_bad_image", "max_bad_share")  # of data: a run that met a bad image goes on in another way with it
PACKAGES = ("mixonomy", "torch", "torchvision", "torchcodec", "numpy", "pillow")


class RunFolder:
    """Reads and writes the files of one run; where each file is, and what is in it."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model.safetensors"
        self.test = self.path / "test.json"
        self.report = self.path / "report.html"
        self._info = self.path / "run.json"
        self._result = self.path / "result.json"

    def exists(self) -> bool:
        """Whether a run was started here."""
        return self._info.is_file()

    def has_progress(self) -> bool:
        """Whether there is something to lose: a checkpoint or a result."""
        return self.exists() and (self._result.is_file() or any(self.checkpoints.glob("step-*.safetensors")))

    def info(self) -> dict[str, Any]:
        """The content of run.json.

        Raises:
          ValueError: if there is none, or it is damaged or of a newer format.
        """
        if not self.exists():
            if (self.path / "sweep").is_dir():
                raise ValueError(
                    f"the sweep in {self.path} is not finished; run the same `mixonomy train` command again."
                )
            raise ValueError(f"{self.path} is no run folder: it has no run.json; give what `mixonomy train` wrote.")
        try:
            info = json.loads(self._info.read_text(encoding="utf-8"))
            is_newer = info["format"] > FORMAT
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self._info} is damaged ({error!r}); start again in another folder.") from None
        if is_newer:
            raise ValueError(f"{self._info} has format {info['format']}, this version reads up to {FORMAT}; update.")
        return info

    def recipe(self) -> "Recipe":
        """The recipe of the run."""
        from mixonomy.recipe import Recipe  # pydantic, which reading a model does without

        return Recipe.model_validate(self.info()["recipe"])

    def result(self) -> dict[str, Any] | None:
        """The content of result.json; None if the run is not finished."""
        try:
            return json.loads(self._result.read_text(encoding="utf-8")) if self._result.is_file() else None
        except ValueError as error:
            raise ValueError(f"{self._result} is damaged ({error}); remove it and run the command again.") from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out of the folder; the lock ends with the process, however it ends.

        Raises:
          ValueError: if another process is training here, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = open(self.path / ".lock", "a")
        except OSError as error:
            raise ValueError(f"cannot write to {self.path} ({error.strerror}); give another --out.") from None
        _held.add(file)
        try:
            with file:
                if fcntl is not None:
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        raise ValueError(
                            f"another process is training in {self.path}; wait, or give another --out."
                        ) from None
                for left in self.path.glob(".*.tmp"):  # of a process that was killed while it wrote
                    left.unlink()
                yield
        finally:
            _held.discard(file)

    def check_no_trial(self) -> None:
        """Refuses a trial of a sweep, whose scores are of held-out images.

        Raises:
          ValueError: if the run is one.
        """
        if self.info()["facts"].get("is_trial"):
            raise ValueError(
                f"{self.path} is a trial of a sweep, which keeps its scores on held-out images and no weights; give "
                f"the sweep's own folder, two above, or another."
            )

    def start(self, info: dict[str, Any]) -> None:
        """Creates the folder and its run.json.

        Raises:
          ValueError: if it cannot be written, or holds parts of a run whose run.json is gone.
        """
        if not self.exists() and (self.model.exists() or any(self.checkpoints.glob("step-*"))):
            raise ValueError(f"{self.path} holds parts of a run without its run.json; move them or give another --out.")
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_json(self._info, {"format": FORMAT, **info})
        except OSError as error:
            raise ValueError(f"cannot write to {self.path} ({error.strerror}); give another --out.") from None

    def check_same(self, recipe: "Recipe", facts: dict[str, Any]) -> None:
        """Refuses to go on with another experiment.

        Args:
          facts: of data and model, that must be as they were when the run started.
        Raises:
          ValueError: naming the fields that differ.
        """
        self.check_recipe(recipe)
        from mixonomy.recipe import differences

        changes = differences(self.info()["facts"], facts)
        if changes:
            raise ValueError(
                f"the data or model of {self.path} is another now: {', '.join(changes)}; give another --out."
            )

    def check_recipe(self, recipe: "Recipe") -> None:
        """Refuses to go on with another recipe.

        Raises:
          ValueError: naming the fields that differ.
        """
        # Read as a recipe first: what an earlier version did not know has its default there.
        check_same_recipe(self.path, self.recipe(), recipe)

    def finish(self, result: dict[str, Any]) -> None:
        """Writes result.json, which marks the run as finished."""
        write_json(self._result, result)


_held: set[TextIO] = set()


def _let_go() -> None:
    """Closes the locks of the parent in a process that was forked.

    Workers notice the end of a killed parent after some seconds; a lock of which they had a copy would last as long.
    """
    for file in _held:
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def check_same_recipe(path: Path, there: "Recipe", now: "Recipe") -> None:
    """Refuses another recipe than that of the run in a folder.

    Raises:
      ValueError: naming the fields that differ.
    """
    from mixonomy.recipe import differences

    old, new = there.model_dump(mode="json"), now.model_dump(mode="json")
    for field in MAY_CHANGE:
        old["data"][field] = new["data"][field]
    if changes := differences(old, new):
        raise ValueError(f"{path} holds another run: {', '.join(changes)}; give another --out, or that recipe.")


def recipe_hash(recipe: "Recipe") -> str:
    """Eight hexadecimal digits that tell recipes apart."""
    return text_hash(recipe.model_dump_json())


def text_hash(text: str) -> str:
    """Eight hexadecimal digits that tell texts apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON, whole or not at all; all in ASCII where a name on disk is no valid Unicode."""
    try:
        text = json.dumps(content, indent=1, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # lone surrogates, which `json` and `os.fsencode` bring back to the bytes on disk
        text = json.dumps(content, indent=1).encode()
    write_atomically(path, text + b"\n")


def with_names(found: Any, names: Sequence[str]) -> Any:
    """The same lists and dictionaries, in which every record of an image, one with an "index", has its "name" too."""
    if isinstance(found, list):
        return [with_names(part, names) for part in found]
    if not isinstance(found, dict):
        return found
    named = {key: with_names(part, names) for key, part in found.items()}
    return {**named, "name": names[found["index"]]} if "index" in found else named


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; a last line that was cut off by a crash is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def environment() -> dict[str, Any]:
    """Versions, machine and commit, for run.json."""
    import torch

    from mixonomy import devices

    return {
        "versions": {"python": platform.python_version(), **{p: v for p in PACKAGES if (v := _version(p))}},
        "machine": {
            "system": platform.platform(),
            "cpu": devices.cpu_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "commit": _commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source tree that mixonomy runs from, with a mark if files differ; None for a wheel."""
    here = Path(__file__).parent
    if not (here.parents[1] / ".git").exists():
        return None
    git = ["git", "-C", str(here)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10)
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "."],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")
