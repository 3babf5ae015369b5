"""Data sets of the Hugging Face hub, by their parquet files."""

import re
from pathlib import Path, PurePosixPath

from mixonomy.data.sources import parquet
from mixonomy.data.sources.base import SPLITS, Source
from mixonomy.data.sources.folder import SPLIT_FOLDERS

CONVERTED = "refs/convert/parquet"  # the branch that the hub fills for data sets in other formats


def open_hub(text: str) -> Source:
    """Opens "hf:OWNER/NAME", or "hf:OWNER/NAME/CONFIG" where a data set has several.

    Files are downloaded once, into the hub's own cache.

    Raises:
      ValueError: if there is no such data set, it has no parquet files of images, or it cannot be reached.
    """
    parts = text.removeprefix("hf:").split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise ValueError(f"{text!r} names no data set of the hub; write hf:OWNER/NAME or hf:OWNER/NAME/CONFIG.")
    repo, config = "/".join(parts[:2]), parts[2] if len(parts) == 3 else None
    revision, files = _parquet_files(repo)
    by_split = _splits(text, files, config)
    local = {split: [_download(repo, file, revision) for file in names] for split, names in by_split.items()}
    return parquet.join_files(text, {split: parquet.read(*paths) for split, paths in local.items()})


def _parquet_files(repo: str) -> tuple[str | None, list[str]]:
    """(revision, parquet files) of a data set: its own, else the hub's conversion."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    for revision in (None, CONVERTED):
        try:
            files = HfApi().list_repo_files(repo, repo_type="dataset", revision=revision)
        except RevisionNotFoundError:
            continue
        except RepositoryNotFoundError:
            raise ValueError(f"the hub has no data set {repo!r}, or it needs a token; look at its page.") from None
        except _network_errors() as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"the hub could not be asked for {repo!r} ({reason}); try again later.") from None
        if found := sorted(file for file in files if file.endswith(".parquet")):
            return revision, found
    raise ValueError(f"data set {repo!r} of the hub has no parquet files; download it and give its folder.")


def _splits(text: str, files: list[str], config: str | None) -> dict[str, list[str]]:
    """Split -> files, from paths such as "data/train-00000-of-00002.parquet" and "CONFIG/train/0000.parquet"."""
    found: dict[str, dict[str, list[str]]] = {}
    for file in files:
        path = PurePosixPath(file)
        words = [*path.parts[:-1], re.split(r"[-_.]", path.stem)[0]]
        at = [i for i, word in enumerate(words) if word.lower() in SPLIT_FOLDERS]
        if at:
            folder = "/".join(words[: at[0]])
            found.setdefault(folder, {}).setdefault(SPLIT_FOLDERS[words[at[0]].lower()], []).append(file)
    if config is not None:
        found = {folder: splits for folder, splits in found.items() if config in folder.split("/")}
    if len(found) != 1:
        configs = ", ".join(sorted(folder or "." for folder in found)) or "none"
        raise ValueError(f"{text!r} has parquet files of these configurations: {configs}; name one as {text}/CONFIG.")
    splits = next(iter(found.values()))
    return {split: splits[split] for split in SPLITS if split in splits}


def _download(repo: str, file: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, file, repo_type="dataset", revision=revision))
    except (LocalEntryNotFoundError, *_network_errors()) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file} of {repo!r} could not be downloaded ({reason}); try again later.") from None


def _network_errors() -> tuple[type[Exception], ...]:
    """What the hub's library raises; its HTTP library, whose own errors it lets through, has changed before."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError"), HfHubHTTPError)
