"""Tables of faults and of what training at scale costs, for `tables.py`."""

from pathlib import Path

from plain import newest, number, of_same_run, table
from rows import Row, read

TPU_CORE_FLOPS = 61.5e12  # per second in bf16; a TPUv3 chip, which has two cores, has 123e12 by Google's own page
PARTS = {"compute": "compute_s", "decoding": "decode_s", "store": "store_s", "sum of gradients": "allreduce_s"}


def faults(results: Path) -> str:
    """One line per fault: how the command that met it ended, and what was lost."""
    rows, lines = read(results / "faults.jsonl"), []
    for row in newest(rows, "seconds"):
        same = of_same_run(rows, row)
        counts = {"half_written": "in the write of a checkpoint", "mid_epoch": "in the middle of an epoch"}
        more = [f"{same[key]['value']:.0f} {words}" for key, words in counts.items() if key in same]
        what = f"{row['model']} ({', '.join(more)})" if more else row["model"]
        skipped = [row["note"] or "-"] if row["value"] is None else []
        lines.append(
            [
                what,
                number(row, ".1f"),
                number(same.get("exit_status"), ".0f"),
                _yes(same.get("intact")),
                _yes(same.get("bit_equal")),
                _yes(same.get("holds")) if not skipped else f"not done: {skipped[0]}",
                row["device"],
                row["commit"] or "-",
            ]
        )
    header = "what|ended after, s|exit status|last good state intact|then bit-equal|as it should be|machine|commit"
    return table(header.split("|"), lines, right=(1, 2))


def _yes(row: Row | None) -> str:
    return "-" if row is None else "yes" if row["value"] == 1 else "no"


def runs(results: Path) -> str:
    """One line per run of the paper: its operations, and the paper's TPUv3 core-days."""
    rows = read(results / "many_gpus.jsonl")
    published = {(row["model"], row["data"]): row for row in read(results / "published.jsonl") if _is_days(row)}
    lines = []
    for row in newest(rows, "steps"):
        same, theirs = of_same_run(rows, row), published.get((row["model"], row["data"]))
        flops, steps = same["step_flops"]["value"], row["value"]
        total = flops * steps * 4096
        share = "-" if theirs is None else f"{100 * total / (theirs['value'] * 86_400 * TPU_CORE_FLOPS):.0f}"
        lines.append(
            [
                row["model"],
                row["data"],
                number(same["params"], ",.1f", scale=1e-6),
                number(same["step_flops"], ",.0f", scale=1e-9),
                f"{steps:,.0f}",
                f"{total / 1e18:,.0f}",
                "-" if theirs is None else f"{theirs['value']:,.0f}" + (" *" if theirs.get("note") else ""),
                share,
                number(same.get("cpu_core_years"), ",.1f"),
                row["commit"] or "-",
            ]
        )
    header = "model|data|parameters, M|GFLOP per image|steps of 4,096|EFLOP in all|paper: TPUv3 core-days|"
    header += "share of their peak, %|CPU core-years|commit"
    return table(header.split("|"), lines, right=range(2, 9))


def _is_days(row: Row) -> bool:
    return row["study"] == "many_gpus" and row["metric"] == "tpu_core_days"


def cost(results: Path) -> str:
    """One line per run of the paper and number of GPUs: what each part of a step needs, and what comes of it."""
    rows, lines = read(results / "many_gpus.jsonl"), []
    for row in newest(rows, "compute_s"):
        same = of_same_run(rows, row)
        data, _, gpus = row["data"].rpartition(", ")
        longest = max(PARTS, key=lambda part: same[PARTS[part]]["value"])
        lines.append(
            [
                row["model"],
                data,
                gpus.removesuffix(" GPUs"),
                *(number(same[metric], ",.1f", scale=1e3) for metric in PARTS.values()),
                longest,
                number(same.get("decode_cores"), ",.1f"),
                number(same["images_per_s"], ",.0f"),
                number(same["days"], ",.2f"),
                number(same["gpu_hours"], ",.0f"),
                row["commit"] or "-",
            ]
        )
    header = ["model", "data", "GPUs", *(f"{part}, ms" for part in PARTS), "longest"]
    header += ["cores per GPU to decode for it", "images/s", "days", "GPU hours", "commit"]
    return table(header, lines, right=(2, 3, 4, 5, 6, 8, 9, 10, 11))
