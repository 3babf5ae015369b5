"""What is calculated of training at scale, and the scripts of faults and scaling from end to end."""

import subprocess
import sys
from pathlib import Path

import pytest

import many_gpus
import many_gpus_tables
import rows

ROOT = Path(__file__).resolve().parents[2]
WHERE = rows.Origin("cpu", "abc", "python x", "2026-01-31")


def call(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)


def test_each_part_of_a_step_is_its_work_over_its_rate():
    on = many_gpus.Cluster(
        peak_flops=1e12, utilisation=0.5, node_gpus=8, gpu_cores=10, node_link=1e9, network=1e8, store=1e6
    )
    about = {"batch_size": 1000, "flops": 1e9, "params": 10**6, "decoded_per_s": 5.0, "image_bytes": 1e3, "on": on}
    one, two = many_gpus.step_on(8, **about), many_gpus.step_on(16, **about)
    assert (one.compute_s, two.compute_s) == (0.25, 0.125)
    assert (one.decode_s, two.decode_s) == (2.5, 1.25)
    assert (one.store_s, two.store_s) == (1.0, 0.5)
    assert one.allreduce_s == pytest.approx(2 * 7 / 8 * 4e6 / 1e9)
    assert two.allreduce_s == pytest.approx(2 * 15 / 16 * 4e6 / 1e8)
    assert one.seconds == 2.5


@pytest.mark.parametrize(("name", "params"), [("mixer-s/16", 18_528_264), ("mixer-l/16", 208_196_168)])
def test_models_on_paper_have_all_their_parameters(name, params):
    assert sum(shape.numel() for shape in many_gpus.shapes_of(name, 1000).values()) == params


def test_a_fault_that_could_not_be_done_says_why(tmp_path):
    about = {"study": "faults", "model": "a full disk", "data": "x", "metric": "seconds", "unit": "s"}
    rows.append(tmp_path / "faults.jsonl", [rows.make_row(WHERE, **about, value=None, n=0, note="may not mount")])
    assert "not done: may not mount" in many_gpus_tables.faults(tmp_path)


@pytest.mark.very_slow
def test_faults_and_weak_scaling_run_from_end_to_end(tmp_path):
    cases = ("checkpoint-flipped", "shard-missing", "shard-duplicate", "workers-end")
    out = tmp_path / "faults.jsonl"
    done = call("benchmarks/survive.py", "--cases", *cases, "--steps", "60", "--limit", "300", "--results", str(out))
    assert done.returncode == 0, done.stderr
    assert {row["value"] for row in rows.read(out) if row["metric"] == "holds"} == {1}
    done = call("benchmarks/weak_scaling.py", "--quick", "--results", str(tmp_path / "weak.jsonl"))
    assert done.returncode == 0, done.stderr
    assert {row["data"] for row in rows.read(tmp_path / "weak.jsonl")} == {"1 process", "2 alone", "2 ranks"}
