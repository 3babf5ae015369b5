"""Shards at scale: the cost of an index and an order of hundreds of millions of images, and the script itself."""

import subprocess
import sys
from pathlib import Path

import pytest

import rows
import shards

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("num_images", [300_000_000, 3_000_000_000])
def test_hundreds_of_millions_of_images_are_set_up_in_milliseconds_and_megabytes(tmp_path, num_images):
    found = {metric: value for metric, (value, *_) in shards.at_scale(tmp_path, num_images).items()}
    assert found["set_up_s"] < 0.2 and found["order_s"] < 0.1  # on a busy machine; milliseconds on a quiet one
    assert found["peak_bytes"] < 8 * 2**20 and found["index_bytes_per_image"] < 50


@pytest.mark.very_slow
def test_script_runs_from_end_to_end(tmp_path):
    command = [sys.executable, "benchmarks/shards.py", "--quick", "--results", str(tmp_path / "shards.jsonl")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = rows.read(tmp_path / "shards.jsonl")
    assert {row["metric"] for row in found} >= {"images_per_s", "growth", "set_up_s", "overhead"}
