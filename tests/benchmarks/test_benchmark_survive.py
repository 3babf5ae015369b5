"""Faults on purpose: a case that comes to nothing is one row and the others follow; what is counted is counted once."""

import random

import pytest

import rows
import survive
from faults import kills
from faults.commands import CaseFailed, Command, Ended
from faults.place import Outcome, Place, half_written


class Nowhere:
    """A place in which nothing is done."""

    def __init__(self, folder, limit_s=1.0, say=lambda text: None):
        self.folder, self.say, self.steps, self.limit_s, self.shards = folder, say, 100, limit_s, folder / "shards"

    def started(self, source, out):
        return None

    def train(self, source, out):
        return ()

    def run(self, *words):
        return self.ended

    def whole(self, source):
        return self.folder

    ended = Ended(0, 1.0, "top-1 error 10 %")


def failing(place):
    raise CaseFailed("it ended too early")


def test_a_case_that_comes_to_nothing_loses_none_of_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(survive, "Place", Nowhere)
    monkeypatch.setitem(survive.CASES, "worker", failing)
    monkeypatch.setitem(survive.CASES, "shard-half", lambda place: Outcome("half", Ended(1, 2.0, "")))
    results = tmp_path / "faults.jsonl"
    monkeypatch.setattr("sys.argv", ["survive", "--cases", "worker", "shard-half", "--results", str(results)])
    assert survive.main() == 1
    assert {row["model"]: row.get("note") for row in rows.read(results) if row["metric"] == "seconds"} == {
        "worker": "it ended too early",
        "half": None,
    }


def test_a_command_that_ends_before_its_fault_is_a_case_that_failed(tmp_path):
    command = Command(["--version"], tmp_path / "log.txt")
    with pytest.raises(CaseFailed, match="it ended too early"):
        command.surely(lambda: False, 300)


def test_packing_or_training_that_fails_undisturbed_is_a_case_that_failed(tmp_path, monkeypatch):
    monkeypatch.setattr("faults.place.run", lambda *arguments: Ended(1, 1.0, "no room"))
    with pytest.raises(CaseFailed, match="could not be packed: no room"):
        Place(tmp_path)


def test_too_few_sizes_of_disks_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["survive", "--sizes", "2"])
    with pytest.raises(SystemExit):
        survive.main()
    assert "--sizes 2 leaves out full disks; give 3 or more" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "num_problems"), [("top-1 error 10 %", 0), ("run is finished", 0), ("", 1)])
def test_kills_count_a_write_once_and_the_end_has_to_be_a_success(tmp_path, monkeypatch, text, num_problems):
    killed = []

    def kill(command, kind, target, out, *rest):
        """The first leaves a half-written checkpoint, which the second does not come to remove, and the third does."""
        killed.append(kind)
        folder = out / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        if len(killed) == 3:
            (folder / ".step-1.1.tmp").unlink()
        if len(killed) in (1, 3):
            (folder / f".step-1.{len(killed)}.tmp").write_bytes(b"")
        if len(killed) == 4:
            half_written(out)[0].unlink()
        return True

    monkeypatch.setattr(kills, "_killed", kill)
    monkeypatch.setattr(kills, "different", lambda one, other: [])
    monkeypatch.setattr(Nowhere, "ended", Ended(0, 1.0, text))
    found = kills.killed_often(Nowhere(tmp_path), 4)
    assert found.counts["kills"] == 4 and found.counts["half_written"] == 2
    assert len(found.problems) == num_problems, found.problems


def test_a_kill_in_a_write_waits_for_a_write_of_its_own_start(tmp_path):
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    old = out / "checkpoints/.step-1.1.tmp"
    old.write_bytes(b"")

    class Started(Command):
        """A command that writes anew at the third look."""

        def __init__(self):
            self.looks, self.process = 0, self

        def poll(self):
            return None

        def kill(self):
            pass

        def until(self, happened, limit_s):
            while not happened():
                self.looks += 1
                assert self.looks < 10
                if self.looks == 3:
                    (out / "checkpoints/.step-2.2.tmp").write_bytes(b"")
            return True

    command = Started()
    assert kills._killed(command, kills.IN_A_WRITE, 0, out, random.Random(0), 1.0, before={old})
    assert command.looks == 3
