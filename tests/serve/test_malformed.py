"""A short form of benchmarks/malformed.py and benchmarks/serve.py: wrong requests and a load on a real process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def call(script: str, results: Path, *options: str) -> tuple[str, list[dict]]:
    """What a script printed, and its rows."""
    command = [sys.executable, f"benchmarks/{script}", "--results", str(results), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, [json.loads(line) for line in results.read_text().splitlines()]


@pytest.mark.slow
def test_wrong_requests_are_answered_or_refused_and_the_server_lives_on(tmp_path):
    printed, rows = call("malformed.py", tmp_path / "rows.jsonl", "--requests", "250")
    found = json.loads(printed)
    assert {row["metric"]: row["value"] for row in rows}["undeclared_5xx"] == 0
    assert sum(found["statuses"].values()) > 200 and {"200", "400", "413", "415", "422"} <= found["statuses"].keys()


@pytest.mark.very_slow
def test_ten_thousand_wrong_requests_leave_no_trace(tmp_path):
    _, rows = call("malformed.py", tmp_path / "rows.jsonl")
    found = {row["metric"]: row["value"] for row in rows}
    assert found["undeclared_5xx"] == 0 and found["memory_after_bytes"] < found["memory_before_bytes"] + 50e6


@pytest.mark.slow
def test_load_quick_writes_rows_of_every_part(tmp_path):
    _, rows = call("serve.py", tmp_path / "rows.jsonl", "--quick")
    found = {(row["model"], row["metric"]): row["value"] for row in rows}
    assert found["served", "images_per_s"] > 0 and found["served", "p99_s"] >= found["served", "p50_s"]
    assert found["SIGTERM", "lost"] == 0 and found["SIGTERM", "answered"] > 0
