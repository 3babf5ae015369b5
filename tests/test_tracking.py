"""metrics.jsonl and the extra trackers."""

import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from mixonomy.runs import read_metrics
from mixonomy.tracking import Trackers


def test_rows_after_the_given_position_are_cut_off_and_written_again(tmp_path):
    with Trackers(tmp_path, 0) as trackers:
        trackers.write({"step": 1})
        kept = trackers.flush()
        trackers.write({"step": 2, "lost": True})
    with Trackers(tmp_path, kept) as trackers:
        trackers.write({"step": 2})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1}, {"step": 2}]


def test_line_that_a_crash_cut_off_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1}) + '\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1}]
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown tracker 'tensorbord'; use tensorboard, wandb"):
        Trackers(tmp_path, 0, ("tensorbord",))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside tensorboard
def test_tensorboard_gets_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra mixonomy[track]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Trackers(tmp_path, 0, ("tensorboard",), recipe={"seed": 7}) as trackers:
        trackers.write({"step": 10, "loss": 0.5})
        trackers.write({"step": 20, "val/top1": 0.75})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 0.5)]
    assert [(event.step, event.value) for event in events.Scalars("val/top1")] == [(20, 0.75)]
    (text,) = events.Tensors("recipe/text_summary")
    assert b'"seed": 7' in text.tensor_proto.string_val[0]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_tracker_that_is_not_installed_is_one_sentence_and_leaves_the_log_alone(name, tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    for module in ("wandb", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"tracking by {name} needs it installed: pip install 'mixonomy\[track\]'"):
        Trackers(tmp_path, 0, (name,))
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1}]


def wandb_records(path: Path) -> list[Any]:
    """The records of an offline run's file: a header of 7 bytes, then CRC (4 bytes), length (2), kind (1), content.

    Longer files come in blocks of 32 KiB, as LevelDB's logs do; these are shorter.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, records = path.read_bytes(), 7, []
    assert content[:4] == b":W&B" and len(content) < 2**15
    while at < len(content):
        (length,) = struct.unpack_from("<H", content, at + 4)
        records.append(Record.FromString(content[at + 7 : at + 7 + length]))
        at += 7 + length
    return records


def offline_runs(folder: Path) -> list[list[Any]]:
    """The records of each start, oldest first."""
    import wandb

    wandb.teardown()  # its process writes the files a moment later than `finish` returns
    return [wandb_records(path) for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))]


@pytest.fixture
def offline(monkeypatch):
    pytest.importorskip("wandb", reason="needs the extra mixonomy[track]")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)


@pytest.mark.slow
def test_wandb_gets_the_same_numbers_and_the_recipe_and_a_resume_goes_on_under_the_same_id(tmp_path, offline, capfd):
    with Trackers(tmp_path, 0, ("wandb",), recipe={"optim": {"lr": 0.5}}) as trackers:
        trackers.write({"step": 10, "loss": 0.5})
        kept = trackers.flush()
        trackers.write({"step": 20, "loss": 0.4})
    with Trackers(tmp_path, kept, ("wandb",), next_step=11, recipe={"optim": {"lr": 0.5}}) as trackers:
        trackers.write({"step": 20, "loss": 0.4})
        trackers.write({"step": 20, "val/top1": 0.75})
    ids, rows = [], []
    for records in offline_runs(tmp_path):
        (run,) = (record.run for record in records if record.HasField("run"))
        assert (run.project, run.display_name) == ("mixonomy", tmp_path.name)
        assert {item.key: json.loads(item.value_json) for item in run.config.update}["optim"] == {"lr": 0.5}
        ids.append(run.run_id)
        for record in records:
            if record.HasField("history"):
                items = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
                rows.append({key: json.loads(value) for key, value in items.items() if not key.startswith("_")})
    assert len(ids) == 2 and ids[0] == ids[1]
    assert rows == [{"step": 10, "loss": 0.5}, *2 * [{"step": 20, "loss": 0.4}], {"step": 20, "val/top1": 0.75}]
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_wandb_run_that_starts_over_has_another_id_and_a_failed_one_says_so(tmp_path, offline):
    with pytest.raises(KeyError), Trackers(tmp_path, 0, ("wandb",)):
        raise KeyError
    with Trackers(tmp_path, 0, ("wandb",)):
        pass
    runs = offline_runs(tmp_path)
    exits = {r.run.run_id: [e.exit.exit_code for e in records if e.HasField("exit")]
             for records in runs for r in records if r.HasField("run")}  # fmt: skip
    assert sorted(exits.values()) == [[0], [1]]


def test_wandb_that_cannot_start_is_one_sentence(tmp_path, offline, monkeypatch):
    import wandb

    def refusing(**_):
        raise wandb.errors.UsageError("No API key configured.\nUse `wandb login`.")

    monkeypatch.setattr(wandb, "init", refusing)
    with pytest.raises(ValueError, match=r"cannot start \(No API key configured. Use .wandb login..\); set WANDB_MODE"):
        Trackers(tmp_path, 0, ("wandb",))
