"""Tables in Markdown with a line for each newest row, described by their columns; for `tables.py`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rows import Row, read


@dataclass(frozen=True)
class Column:
    """One column of a plain table: a metric of the row's run, as a number, or a field of the row as text.

    Args:
      metric: of the run; one in ROW_FIELDS stands for that field.
      scale: what the value is multiplied by.
    """

    heading: str
    metric: str
    form: str = ",.1f"
    scale: float = 1.0
    with_spread: bool = False

    def cell(self, row: Row, same: dict[str, Row]) -> str:
        """Of a row and the rows of the same run, by metric."""
        if self.metric in ROW_FIELDS:
            return ROW_FIELDS[self.metric](row)
        return number(same.get(self.metric), self.form, scale=self.scale, with_spread=self.with_spread)


@dataclass(frozen=True)
class Plain:
    """A table with a line for the newest row of each model, data set and machine.

    Args:
      file: in results/, without its ending.
      metrics: a line belongs to a row of one of these.
    """

    file: str
    metrics: tuple[str, ...]
    columns: tuple[Column, ...]

    def __call__(self, results: Path) -> str:
        """The table in Markdown."""
        rows = read(results / f"{self.file}.jsonl")
        columns = (*self.columns, Column("machine", "device"), Column("commit", "commit"))
        found = [row for metric in self.metrics for row in newest(rows, metric)]
        lines = [[column.cell(row, of_same_run(rows, row)) for column in columns] for row in found]
        right = [i for i, column in enumerate(columns) if column.metric not in ROW_FIELDS]
        return table([column.heading for column in columns], lines, right=right)


def newest(rows: Sequence[Row], metric: str) -> list[Row]:
    """The last row of each (model, data, machine): a later measurement takes the place of an earlier one."""
    newest = {(row["model"], row["data"], row["device"]): row for row in rows if row["metric"] == metric}
    return list(newest.values())


def of_same_run(rows: Sequence[Row], row: Row) -> dict[str, Row]:
    """The rows that were measured with this one, by metric."""
    keys = ("model", "data", "device", "commit", "command", "date")
    return {other["metric"]: other for other in rows if all(other[key] == row[key] for key in keys)}


def number(row: Row | None, form: str, *, scale: float = 1.0, with_spread: bool = False) -> str:
    if row is None or row["value"] is None:
        return "-"
    spread = f" ± {scale * row['spread']:{form}}" if with_spread and row["spread"] is not None else ""
    return f"{scale * row['value']:{form}}{spread}"


def table(header: Sequence[str], lines: Sequence[Sequence[str]], *, right: Sequence[int]) -> str:
    """A Markdown table; `right` names the columns of numbers."""
    if not lines:
        return "No rows yet."
    rule = ["--:" if i in right else "---" for i in range(len(header))]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *cells))


ROW_FIELDS: dict[str, Callable[[Row], str]] = {
    "model": lambda row: row["model"],
    "data": lambda row: row["data"],
    "device": lambda row: row["device"],
    "commit": lambda row: row["commit"] or "-",
    "n": lambda row: f"{row['n']}" + (f" ({row['note']})" if row.get("note") else ""),
}
MODEL, DATA = Column("model", "model"), Column("data", "data")
RATE = Column("images/s", "images_per_s", with_spread=True)
LIMIT = Column("of the limit, %", "share_of_limit", ".0f", 100)
MEMORY = Column("peak memory, MB", "peak_memory_bytes", ",.0f", 1e-6)
DEFAULT = Column("/ timm fp32", "ratio_default", ".2f", with_spread=True)
BEST = Column("/ timm's best", "ratio_best", ".2f", with_spread=True)
PLAIN = {
    # Throughput, ratios to timm, memory and share of the limit.
    "train": Plain("train", ("images_per_s",), (MODEL, DATA, RATE, DEFAULT, BEST, MEMORY, LIMIT, Column("steps", "n"))),
    # The same of inference, the best of all others, and agreement with float64.
    "infer": Plain(
        "infer",
        ("images_per_s",),
        (
            MODEL,
            DATA,
            RATE,
            DEFAULT,
            BEST,
            Column("/ best peer", "ratio_best_peer", ".2f", with_spread=True),
            LIMIT,
            MEMORY,
            Column("first call, s", "first_s", ".2f"),
            Column("differs", "difference", ".0e"),
            Column("same top-1, %", "top1_agreement", ".1f", 100),
            Column("calls", "n"),
        ),
    ),
    # The input pipeline by library, number of workers and augmentation.
    "data": Plain(
        "data",
        ("images_per_s",),
        (
            DATA,
            Column("pipeline", "model"),
            Column("images/s", "images_per_s", ",.0f", with_spread=True),
            LIMIT,
            Column("/ torchvision", "ratio_default", ".2f", with_spread=True),
            Column("/ best peer", "ratio_best", ".2f", with_spread=True),
            Column("repetitions", "n"),
        ),
    ),
    # Ways to make a batch in memory, and the training step.
    "data_memory": Plain(
        "data",
        ("batch_s",),
        (
            DATA,
            Column("what", "model"),
            Column("ms per batch", "batch_s", ",.2f", 1e3, with_spread=True),
            Column("of the step, %", "share_of_step", ".1f", 100),
            Column("/ torchvision", "ratio_default", ".1f"),
            Column("repetitions", "n"),
        ),
    ),
    "muon": Plain(
        "muon",
        ("latency_ms",),
        (
            Column("Muon", "model"),
            Column("matrices", "data"),
            Column("ms per step", "latency_ms", with_spread=True),
            Column("times as fast as torch's", "ratio_default", ".1f", with_spread=True),
            Column("steps", "n"),
        ),
    ),
    # RidgeProbe's time on a core, by the clock, and memory, by size of the problem.
    "ridge": Plain(
        "ridge",
        ("fit_cpu_s",),
        (
            Column("features", "data"),
            Column("fit, s on a core", "fit_cpu_s", ".1f"),
            Column("by the clock", "fit_s", ".1f"),
            Column("score, s on a core", "score_cpu_s", ".1f"),
            Column("by the clock", "score_s", ".1f"),
            MEMORY,
        ),
    ),
    # Commands on many files: time, and what memory they held in the first epoch, the second, the last, and at most.
    "memory": Plain(
        "memory",
        ("seconds", "early_bytes"),
        (
            Column("command", "model"),
            DATA,
            Column("s", "seconds"),
            Column("images/s", "images_per_s", ",.0f"),
            Column("memory early, MB", "early_bytes", ",.0f", 1e-6),
            Column("second epoch, MB", "second_bytes", ",.0f", 1e-6),
            Column("late, MB", "late_bytes", ",.0f", 1e-6),
            Column("at most, MB", "peak_bytes", ",.0f", 1e-6),
        ),
    ),
    # Exported files against the runs they come from.
    "round_trip": Plain(
        "round_trip",
        ("max_difference",),
        (
            Column("run: file", "model"),
            DATA,
            Column("largest logit difference", "max_difference", ".1e"),
            Column("changed", "changed", ",.0f"),
            Column("near ties", "near_ties", ",.0f"),
            Column("top-1, %", "top1", ".2f", 100),
            Column("model's top-1, %", "model_top1", ".2f", 100),
            Column("MB", "num_bytes", ",.1f", 1e-6),
            Column("int8: drop, points", "drop", ".2f"),
            Column("below", "bound", ".2f"),
            Column("images/s", "images_per_s", ",.0f"),
            Column("best float", "float_images_per_s", ",.0f"),
            Column("test images", "n"),
        ),
    ),
    # How long a command takes to begin.
    "start": Plain(
        "start",
        ("start_s",),
        (Column("command", "model"), DATA, Column("s", "start_s", ".2f", with_spread=True), Column("times", "n")),
    ),
    # A processor's seconds until an accuracy was reached.
    "whole_runs": Plain(
        "whole_runs",
        ("core_s",),
        (
            DATA,
            Column("trained by", "model"),
            Column("core seconds to reach it", "core_s", ",.0f"),
            Column("times ours", "ratio_ours", ".2f"),
            Column("of an epoch", "core_s_per_epoch", ",.0f", with_spread=True),
            Column("times ours", "ratio_ours_per_epoch", ".2f", with_spread=True),
            Column("last test top-1, %", "top1", ".2f", 100),
            Column("n", "n"),
        ),
    ),
    # Writing shards, and reading them from a cold disk.
    "shards": Plain(
        "shards",
        ("images_per_s",),
        (
            Column("what", "model"),
            DATA,
            Column("images/s", "images_per_s", ",.0f", with_spread=True),
            Column("MB/s", "bytes_per_s", ",.1f", 1e-6),
            Column("larger than the images, %", "overhead", ".1f", 100),
            Column("repetitions", "n"),
        ),
    ),
    "shards_memory": Plain(
        "shards",
        ("early_bytes",),
        (
            Column("what", "model"),
            DATA,
            Column("memory early, MB", "early_bytes", ",.0f", 1e-6),
            Column("late, MB", "late_bytes", ",.0f", 1e-6),
            Column("at most, MB", "peak_bytes", ",.0f", 1e-6),
        ),
    ),
    # An index and an order of very many images.
    "shards_scale": Plain(
        "shards",
        ("set_up_s",),
        (
            DATA,
            Column("open, divide, order: ms", "set_up_s", ",.2f", 1e3, with_spread=True),
            Column("order of a batch of 4,096: ms", "order_s", ",.2f", 1e3, with_spread=True),
            Column("with places and labels: ms", "batch_s", ",.1f", 1e3, with_spread=True),
            Column("memory, MB", "peak_bytes", ",.2f", 1e-6),
            Column("index, GB", "index_bytes", ",.1f", 1e-9),
            Column("bytes per image", "index_bytes_per_image", ",.0f"),
        ),
    ),
    # An order of very many images, by the image.
    "scale_order": Plain(
        "shards",
        ("set_up_s",),
        (
            DATA,
            Column("set-up, ms", "set_up_s", ",.2f", 1e3, with_spread=True),
            Column("order, ns per image", "order_s", ",.0f", 1e9 / 4096, with_spread=True),
            Column("with place and label, ns per image", "batch_s", ",.0f", 1e9 / 4096, with_spread=True),
            Column("memory, MB", "peak_bytes", ",.2f", 1e-6),
            Column("index on disk, GB", "index_bytes", ",.1f", 1e-9),
        ),
    ),
    "scale_images": Plain(
        "many_gpus",
        ("image_bytes",),
        (
            Column("images", "model"),
            DATA,
            Column("kB per image in a shard", "image_bytes", ",.1f", 1e-3),
            Column("n", "n"),
        ),
    ),
    "scale_decoding": Plain(
        "many_gpus",
        ("decoded_per_s",),
        (
            Column("images: augmentation", "model"),
            DATA,
            Column("images/s of one core", "decoded_per_s", ",.0f", with_spread=True),
            Column("repetitions", "n"),
        ),
    ),
    # One process on a core, two that are strangers, two that train together.
    "weak_scaling": Plain(
        "weak_scaling",
        ("images_per_s",),
        (
            Column("model", "model"),
            Column("processes", "data"),
            Column("images/s in all", "images_per_s", ",.1f", with_spread=True),
            Column("/ 1 process", "ratio", ".2f"),
            Column("memory of each, MB", "rank_bytes", ",.0f", 1e-6),
            Column("n", "n"),
        ),
    ),
    "scale_checkpoints": Plain(
        "many_gpus",
        ("checkpoint_bytes",),
        (
            Column("model", "model"),
            Column("with", "data"),
            Column("GB", "checkpoint_bytes", ",.2f", 1e-9),
            Column("training waits, s", "stall_s", ",.2f"),
            Column("on disk after, s", "write_s", ",.1f"),
            Column("read and checked, s", "read_s", ",.1f"),
            Column("memory beside model and optimizer, GB", "extra_bytes", ",.2f", 1e-9),
        ),
    ),
    # Pre-trained weights beside fresh ones on other data: on frozen features; see also transfer_tables.py.
    "transfer_frozen": Plain(
        "transfer",
        ("linear_top1",),
        (
            DATA,
            Column("features", "model"),
            *(
                Column(f"{shots}-shot, %", f"ridge_{shots}shot", ".1f", 100, with_spread=True)
                for shots in (1, 5, 10, 25)
            ),
            Column("linear, %", "linear_top1", ".1f", 100),
            Column("kNN, %", "knn_top1", ".1f", 100),
        ),
    ),
    "transfer_small": Plain(
        "transfer",
        ("val_top1",),
        (
            DATA,
            Column("recipe", "model"),
            Column("validation top-1, %", "val_top1", ".1f", 100, with_spread=True),
            Column("n", "n"),
        ),
    ),
    # What was scored from scratch in how many CPU minutes.
    "imagenette": Plain(
        "imagenette",
        ("top1",),
        (
            Column("model and length", "model"),
            DATA,
            Column("parameters", "params", ",.0f"),
            Column("test top-1, %", "top1", ".2f", 100, with_spread=True),
            Column("CPU minutes", "cpu_minutes", ".0f"),
            Column("n", "n"),
        ),
    ),
    # The server: sustained load beside the bare model, overload, a stop in the middle, wrong requests.
    "serve": Plain(
        "serve",
        ("images_per_s",),
        (
            DATA,
            Column("what", "model"),
            RATE,
            Column("of the bare model, %", "share_of_bare", ".1f", 100, with_spread=True),
            Column("median, ms", "p50_s", ",.0f", 1e3, with_spread=True),
            Column("99th percentile, ms", "p99_s", ",.0f", 1e3, with_spread=True),
            Column("n", "n"),
        ),
    ),
    "serve_overload": Plain(
        "serve",
        ("refused_share",),
        (
            DATA,
            Column("offered, requests/s", "offered_per_s", ",.0f"),
            Column("answered, images/s", "answered_per_s"),
            Column("99th percentile, ms", "answered_p99_s", ",.0f", 1e3),
            Column("refused, %", "refused_share", ".1f", 100),
            Column("99th percentile of refusals, ms", "refused_p99_s", ",.0f", 1e3),
            Column("memory before, MB", "memory_before_bytes", ",.0f", 1e-6),
            Column("after, MB", "memory_after_bytes", ",.0f", 1e-6),
        ),
    ),
    "serve_stop": Plain(
        "serve",
        ("lost",),
        (
            DATA,
            Column("stopped by", "model"),
            Column("answered", "answered", ",.0f"),
            Column("lost", "lost", ",.0f"),
            Column("stops", "n"),
        ),
    ),
    "serve_malformed": Plain(
        "serve",
        ("undeclared_5xx",),
        (
            Column("what", "data"),
            Column("5xx that the description lacks", "undeclared_5xx", ",.0f"),
            Column("memory after a third, MB", "memory_before_bytes", ",.0f", 1e-6),
            Column("at the end, MB", "memory_after_bytes", ",.0f", 1e-6),
            Column("answers by status", "n"),
        ),
    ),
}
