"""Rows: what is refused, and that files keep what they are given."""

import math

import pytest

import rows
from rows import Origin, make_row

WHERE = Origin("a CPU", "abc", "python benchmarks/x.py", "2026-01-31")
ROW = make_row(WHERE, study="s", model="m", data="d", metric="top1", value=0.5, unit="share", seed=0)


def test_a_row_has_all_keys():
    assert tuple(ROW) == rows.KEYS


def test_rows_survive_the_file_and_are_added_at_its_end(tmp_path):
    failed = make_row(
        WHERE, study="s", model="m", data="d", metric="top1", value=None, unit="share", n=0, note="seed 1 failed: ü"
    )
    rows.append(tmp_path / "results" / "x.jsonl", [ROW])
    rows.append(tmp_path / "results" / "x.jsonl", [failed])
    assert rows.read(tmp_path / "results" / "x.jsonl") == [ROW, failed]
    assert rows.read(tmp_path / "nothing.jsonl") == []


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({k: v for k, v in ROW.items() if k != "commit"}, "lacks commit"),
        ({**ROW, "spraed": 1.0}, "has spraed"),
        ({**ROW, "value": math.nan}, "value of a row is nan"),
        ({**ROW, "value": "0.5"}, "give a number"),
        ({**ROW, "value": None}, "no value and no note"),
        ({**ROW, "model": None}, "model of a row is None"),
        ({**ROW, "n": -1}, "n of a row is -1"),
    ],
)
def test_a_wrong_row_is_refused_and_nothing_is_written(tmp_path, row, complaint):
    with pytest.raises(ValueError, match=complaint):
        rows.append(tmp_path / "x.jsonl", [ROW, row])
    assert not (tmp_path / "x.jsonl").exists()


def test_a_wrong_line_is_named(tmp_path):
    rows.append(tmp_path / "x.jsonl", [ROW])
    with (tmp_path / "x.jsonl").open("a") as file:
        file.write('{"study": ')
    with pytest.raises(ValueError, match="line 2"):
        rows.read(tmp_path / "x.jsonl")


def test_the_machine_is_the_gpu_where_one_is_used():
    facts = {"cpu": "EPYC", "cores": 8, "threads": 2, "gpu": "H100"}
    environment = {"machine": facts, "versions": {"torch": "2.14.1"}}
    assert rows.machine(environment) == "EPYC, 2 of 8 cores, torch 2.14.1"
    assert rows.machine(environment, "cuda:0") == "H100, torch 2.14.1"


def test_the_middle_is_the_median_and_half_the_interquartile_range():
    assert rows.middle([1.0, 2.0, 3.0, 4.0, 100.0]) == (3.0, 1.0)
    assert rows.middle([7.0]) == (7.0, None)


def test_all_results_of_this_repository_are_valid():
    for path in rows.RESULTS.glob("*.jsonl"):
        rows.read(path)
