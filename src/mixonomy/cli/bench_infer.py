"""`mixonomy bench infer`."""

import json
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from tyro.conf import FlagCreatePairsOff

from mixonomy.cli.arguments import parse
from mixonomy.cli.bench import chosen


@dataclass(frozen=True)
class BenchInfer:
    """Measures inference, ours by `mixonomy.fast(model)` and others', on random images: the same weights, and
    logits compared with float64 before anything is timed."""

    model: str = "mixer-s/16"
    """A name, as `mixonomy list models` shows it, for random weights; or a run folder or a file of weights."""
    batch_size: list[int] = field(default_factory=lambda: [8])
    """Images of a call; several are measured one after the other."""
    image_size: int | None = None
    """Pixels a side; the run's own, or 224, if not given."""
    classes: int = 1000
    """Number of classes, for a name; a run has its own."""
    against: str = "timm,lucidrains,onnxruntime,openvino"
    """Whom to measure beside, comma-separated: timm, lucidrains, onnxruntime, openvino."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    rounds: int = 3
    """Turns of each setting."""
    quick: FlagCreatePairsOff[bool] = False
    """One call of each in one process, to see that it works; times mean little, and memory is not measured."""
    json: FlagCreatePairsOff[bool] = False
    """Print everything as one JSON object on the last line of standard output."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(BenchInfer, argv, name="bench infer")
    counts = {"classes": [options.classes], "rounds": [options.rounds], "batch-size": options.batch_size}
    for name, values in {**counts, "image-size": [options.image_size or 1]}.items():
        if not values or min(values) < 1:
            raise ValueError(f"--{name} is {' '.join(map(str, values)) or 'empty'}; give at least 1.")

    from mixonomy import devices
    from mixonomy.bench import infer, show, turns

    settings = chosen(options.against, {name: setting.library for name, setting in infer.SETTINGS.items()})
    people = sys.stderr if options.json else sys.stdout
    device = str(devices.resolve_device(options.device))

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    case = infer.Case(
        options.model,
        tuple(dict.fromkeys(options.batch_size)),
        None if options.image_size is None else (options.image_size, options.image_size),
        options.classes,
        turn_s=0.0 if options.quick else 1.0,
        gemm_size=256 if options.quick else None,
    )
    rounds = 1 if options.quick else options.rounds
    found = infer.compare(case, settings, device=device, rounds=rounds, in_process=options.quick, say=say)
    size = " x ".join(map(str, found.image_size))
    print("\n".join(found.limits.lines()), file=people)
    leave_out = ("peak_memory_bytes",) if options.quick else ()
    by_batch = {batch: {name: found.numbers(name, batch) for name in settings} for batch in case.batch_sizes}
    for batch, numbers in by_batch.items():
        print(f"\n{options.model}, {size} pixels, batch {batch}, {device}", file=people)
        print("\n".join(show.table(numbers, default=infer.DEFAULT, leave_out=leave_out)), file=people)
    if options.json:
        about: dict[str, Any] = {
            "model": options.model,
            "image_size": list(found.image_size),
            "device": device,
            "params": found.params,
            "flops_per_image": found.flops,
            "limits": asdict(found.limits),
        }
        batches = []
        for batch, numbers in by_batch.items():
            peers = {name: each for name, each in numbers.items() if name.split()[0] != turns.OURS}
            ours = {"batch_size": batch, **numbers[turns.OURS], "ours_int8": numbers[infer.INT8]}
            batches.append(ours | {"peers": peers})
        # The first batch size stands at the top; all of them, where there are more, in a list.
        print(json.dumps(about | batches[0] | ({"batches": batches} if len(batches) > 1 else {})))
    return 0
