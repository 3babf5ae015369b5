"""metrics.jsonl and the extra trackers."""

import json

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
    with pytest.raises(ValueError, match="unknown tracker 'tensorbord'; use tensorboard"):
        Trackers(tmp_path, 0, ("tensorbord",))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside tensorboard
def test_tensorboard_gets_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra mixonomy[track]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Trackers(tmp_path, 0, ("tensorboard",)) as trackers:
        trackers.write({"step": 10, "loss": 0.5})
        trackers.write({"step": 20, "val/top1": 0.75})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 0.5)]
    assert [(event.step, event.value) for event in events.Scalars("val/top1")] == [(20, 0.75)]
