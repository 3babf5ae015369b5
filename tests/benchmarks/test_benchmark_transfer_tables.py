"""Tables of transfer: what stands side by side, what a gain is over, and that losing rows stay."""

from pathlib import Path

import pytest

import rows
from rows import Origin, Row, make_row
from transfer_tables import resolution, tuned


def tuning(model: str, data: str, top1: float, steps: int = 200, lr: str = "0.06", spread: float | None = None) -> Row:
    note = f"{steps} steps of 128, learning rate {lr} of 0.01, {lr}, chosen on held-out images"
    about = {"study": "transfer", "model": model, "data": data, "n": 1 if spread is None else 3, "note": note}
    return make_row(
        Origin("a CPU", "abc", "run", "2026-01-31"), **about, metric="top1", value=top1, unit="share", spread=spread
    )


@pytest.fixture
def results(tmp_path) -> Path:
    rows.append(
        tmp_path / "transfer.jsonl",
        [
            tuning("pre-trained, SGD", "flowers102", 0.5),
            tuning("pre-trained, SGD", "flowers102", 0.6, spread=0.01),
            tuning("from scratch, SGD", "flowers102", 0.25, lr="0.3", spread=0.02),
            tuning("from scratch, AdamW", "flowers102", 0.2, lr="0.003", spread=0.02),
            tuning("pre-trained, SGD", "digits", 0.4),
            tuning("pre-trained, 32 pixels", "flowers102", 0.52),
            tuning("pre-trained, 64 pixels", "flowers102", 0.49),
            tuning("pre-trained, 32 pixels", "flowers102", 0.65, 500),
            tuning("pre-trained, 64 pixels", "flowers102", 0.67, 500),
            tuning("pre-trained, 32 pixels", "imagenette", 0.7),
        ],
    )
    return tmp_path


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]


def test_gain_is_over_the_better_of_the_fresh_starts_and_the_newest_row_counts(results):
    flowers, digits = cells(tuned(results))
    assert flowers[:8] == [
        "flowers102", "200 steps of 128", "60.0 ± 1.0", "25.0 ± 2.0", "20.0 ± 2.0", "+35.0", "3", "0.06 / 0.3 / 0.003"
    ]  # fmt: skip
    assert digits[2:8] == ["40.0", "-", "-", "-", "1", "0.06 / - / -"]


def test_sizes_stand_side_by_side_within_a_length_and_losing_rows_stay(results):
    assert [line[:5] for line in cells(resolution(results))] == [
        ["flowers102", "200 steps of 128", "52.0", "49.0", "-3.0"],
        ["flowers102", "500 steps of 128", "65.0", "67.0", "+2.0"],
        ["imagenette", "200 steps of 128", "70.0", "-", "-"],
    ]


def test_tables_without_rows_say_so(tmp_path):
    assert tuned(tmp_path) == resolution(tmp_path) == "No rows yet."
