"""Files of weights from the Hugging Face hub: fetched once, and compared with what was fetched before.

The checksum of a file is taken when it is first fetched and kept beside the hub's cache. Nobody else's word is asked: a
file that is another one later, on the hub or on the disk, is refused.
"""

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path

from mixonomy.models.files import write_atomically
from mixonomy.models.timm_model import PREFIX, parts_of

HUB = "hf:"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
RECORDS = "mixonomy-sha256"

_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
_TAG = re.compile(r"[A-Za-z0-9_]{1,100}")


def repo_of(text: str) -> str:
    """ "owner/name" of "hf:owner/name" or of itself.

    Raises:
      ValueError: if it names no model; nothing is asked for such a name.
    """
    parts = text.removeprefix(HUB).split("/")
    if len(parts) != 2 or not all(_PART.fullmatch(part) and ".." not in part and "--" not in part for part in parts):
        raise ValueError(f"{text[:200]!r} names no model of the hub; write hf:OWNER/NAME.")
    return "/".join(parts)


def timm_repo(text: str) -> str:
    """The hub's name for the weights that timm calls so, such as "timm:mixer_b16_224.goog_in21k".

    Without a tag timm's own default is taken.

    Raises:
      ValueError: if timm knows no such model or no such weights of it.
    """
    from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg

    architecture, tag = parts_of(text)
    tags = [name.partition(".")[2] for name, cfg in get_arch_pretrained_cfgs(architecture).items() if cfg.hf_hub_id]
    if tag and (not _TAG.fullmatch(tag) or tag not in tags):
        raise ValueError(f"timm has no weights {tag[:100]!r} of {architecture}; use {_listed(tags)}.")
    cfg = get_pretrained_cfg(f"{architecture}.{tag}" if tag else architecture)
    if cfg is None or not cfg.hf_hub_id:
        raise ValueError(
            f"timm has no weights of {architecture} on the hub; mixonomy.create('{PREFIX}{architecture}') makes a "
            f"fresh model."
        )
    return repo_of(cfg.hf_hub_id)


def _listed(tags: list[str]) -> str:
    return " or ".join(sorted(tags)) if tags else "mixonomy.create for a fresh model"


def fetch(repo: str, file: str) -> Path | None:
    """A file of a model on the hub, from its cache or the network; None if the model has no such file.

    Raises:
      ValueError: if there is no such model, it cannot be reached, or the file is not the one of the first time.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        path = Path(hf_hub_download(repo, file))
    except LocalEntryNotFoundError as error:
        raise ValueError(_unreachable(repo, file, error)) from None
    except EntryNotFoundError:
        return None
    except RepositoryNotFoundError:
        raise ValueError(f"the hub has no model {repo!r}, or it needs a token; look at its page.") from None
    except network_errors() as error:
        raise ValueError(_unreachable(repo, file, error)) from None
    check_record(repo, file, path)
    return path


def _unreachable(repo: str, file: str, error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:300].rstrip(".")
    return f"{file} of {repo!r} is not in the cache and could not be downloaded ({reason}); try again with a network."


def check_record(repo: str, file: str, path: Path) -> None:
    """Compares a file with the one that was fetched first; writes down the first.

    Raises:
      ValueError: if it is another file, saying how to accept it.
    """
    with path.open("rb") as opened:
        now = hashlib.file_digest(opened, "sha256").hexdigest()
    record = _record_folder() / repo.replace("/", "--") / f"{file}.json"
    try:
        known = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else None
        first = None if known is None else (str(known["sha256"]), str(known["date"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{record} is damaged; remove it to accept {file} of {repo!r} as it is now.") from None
    if first is None:
        record.parent.mkdir(parents=True, exist_ok=True)
        today = datetime.now(UTC).date().isoformat()
        content = {"repo": repo, "file": file, "sha256": now, "bytes": path.stat().st_size, "date": today}
        write_atomically(record, (json.dumps(content, indent=1) + "\n").encode())
    elif first[0] != now:
        raise ValueError(
            f"{file} of {repo!r} is not the file of {first[1]} (sha256 {first[0][:12]}... then, {now[:12]}... now); if "
            f"the change is expected, remove {record} and load again."
        )


def _record_folder() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / RECORDS


def network_errors() -> tuple[type[Exception], ...]:
    """What the hub's library raises; its HTTP library, whose own errors it lets through, has changed before."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError"), HfHubHTTPError)
