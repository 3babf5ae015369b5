"""Settings in turns: order, failures, hopeless ones, processes of their own, and what the numbers say."""

import time

import pytest

from mixonomy.bench import turns
from mixonomy.bench.turns import Measured, Turn


def turn(seconds, precision="fp32", limit=1e9, is_probe=False):
    peak = None if is_probe else 100
    return Turn(
        seconds, first_s=seconds[0], precision=precision, backend="x", limit=limit, peak_bytes=peak, is_probe=is_probe
    )


def test_settings_take_turns_and_one_that_fails_or_is_hopeless_takes_no_more():
    asked, said = [], []

    def run(name, so_far):
        asked.append(name)
        if name == "b":
            raise ValueError("no such package")
        return turn([9.0] if name == "c" else [1.0, 2.0], is_probe=name == "c")

    measured = turns.take_turns(["a", "b", "c", "d"], 3, run, said.append, {"d": "wrong"})
    assert asked == ["a", "b", "c", "a", "a"]
    assert measured["b"] == Measured(note="no such package") and measured["d"].note == "wrong"
    assert measured["a"].seconds == [1.0, 2.0] * 3 and "more than 10 times as slow" in (measured["c"].note or "")
    assert any("no such package" in line for line in said)


def test_a_summary_divides_by_the_yardstick_its_library_and_all_peers():
    measured = {
        "timm fp32": Measured([turn([4.0, 4.0]), turn([4.0, 4.0])]),
        "timm bf16": Measured([turn([2.0, 2.0], "bf16", 4e9), turn([2.0, 2.0], "bf16", 4e9)]),
        "other": Measured([turn([1.0])]),
        "ours": Measured([turn([0.5, 0.5], "bf16", 2e9), turn([0.5, 1.0], "bf16", 2e9)]),
        "ours int8": Measured([turn([0.1], "int8", None)]),
        "gone": Measured(note="not installed"),
    }
    found = turns.summary(measured, "ours", batch_size=8, flops=3e8, default="timm fp32")
    assert (found["images_per_s"], found["repetitions"], found["precision"]) == (16.0, 4, "bf16")
    assert (found["ratio_default"], found["ratio_best"], found["ratio_best_peer"]) == (8.0, 4.0, 2.0)
    assert found["share_of_limit"] == pytest.approx(3e8 / 0.5 / 3e9), "the median of all rates in this precision"
    assert found["first_s"] == 0.5 and found["peak_memory_bytes"] == 100 and "note" not in found
    assert turns.summary(measured, "gone", batch_size=8, flops=1.0, default="timm fp32") == {
        "images_per_s": None,
        "note": "not installed",
    }
    alone = turns.summary({"ours": measured["ours"]}, "ours", batch_size=8, flops=None, default="timm fp32")
    assert alone["ratio_default"] is None and alone["share_of_limit"] is None


def test_a_child_answers_in_json_and_its_error_is_one_line(tmp_path, monkeypatch):
    code = (
        "import os, time\nfrom mixonomy.bench import turns\n"
        "def run(task):\n"
        "    if task['x'] < 0: raise ValueError('x is below 0')\n"
        "    time.sleep(task['x'])\n"
        "    print('noise')\n"
        "    return {'twice': 2 * task['x'], 'word': os.environ.get('WORD')}\n"
        "turns.answer(run)\n"
    )
    (tmp_path / "answering.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(p for p in __import__('sys').path if p)}")
    assert turns.child("answering", {"x": 0}, {"WORD": "w"}) == {"twice": 0, "word": "w"}
    with pytest.raises(ValueError, match=r"^x is below 0$"):
        turns.child("answering", {"x": -1})
    with pytest.raises(ValueError, match=r"not done after 0.2 s"):
        turns.child("answering", {"x": 60}, limit_s=0.2)


def test_memory_that_a_function_holds_for_a_while_is_seen():
    def hold():
        held = b"\1" * 2**26  # bytes of zeros would not be resident
        time.sleep(0.1)
        return held

    assert turns.most_bytes(hold) - turns.held_bytes() > 2**25


def test_repetitions_fill_their_time_but_are_never_fewer_than_asked():
    assert len(turns.timed(lambda: None, for_s=0.0, at_least=3)) == 3
    assert len(turns.timed(lambda: time.sleep(0.01), for_s=0.1)) >= 5
