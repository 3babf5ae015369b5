"""Rows of `mixonomy bench infer`: our Mixers' inference beside timm, lucidrains, ONNX Runtime and OpenVINO.

    python benchmarks/infer.py [--models mixer-s/16 mixer-b/16] [--batch-sizes 1 8 64] [--quick] [--results FILE]

See `mixonomy.bench` for how it is measured. Rows are written model by model; one model or batch size at a time gives
the same rows. Two rounds and short turns keep both models within some minutes on two cores.
"""

import argparse
import sys
from pathlib import Path

from mixonomy.bench import infer, show
from rows import RESULTS, append, limit_rows, number_rows, origin

MODELS, BATCH_SIZES = ("mixer-s/16", "mixer-b/16"), (1, 8, 64)


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each setting")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=BATCH_SIZES)
    parser.add_argument(
        "--settings", nargs="+", choices=[*infer.SETTINGS, *infer.COMPILED], default=list(infer.SETTINGS)
    )
    parser.add_argument("--turn-s", type=float, default=1.0, help="seconds of each turn at each batch size")
    parser.add_argument("--quick", action="store_true", help="a tiny model and one round, to see that it works")
    parser.add_argument("--results", type=Path, default=RESULTS / "infer.jsonl")
    options = parser.parse_args()
    where = origin(options.device)
    for model in ("mixer",) if options.quick else options.models:
        case = (
            infer.Case(model, (2, 4), (16, 16), num_classes=10, turn_s=0.0, gemm_size=128)
            if options.quick
            else infer.Case(model, tuple(options.batch_sizes), turn_s=options.turn_s)
        )
        try:
            found = infer.compare(
                case,
                options.settings,
                device=options.device,
                rounds=1 if options.quick else options.rounds,
                in_process=options.quick,
                say=lambda text: print(text, file=sys.stderr),
            )
        except ValueError as error:
            print(error, file=sys.stderr)
            return 1
        print("\n".join(found.limits.lines()))
        for size in case.batch_sizes:
            about = {"study": "infer", "data": f"random {found.image_size[0]} x {found.image_size[1]}, batch {size}"}
            numbers = {setting: found.numbers(setting, size) for setting in options.settings}
            made = [
                row
                for key, each in numbers.items()
                for row in number_rows(where, each, model=f"{model}: {key}", **about)
            ]
            append(options.results, [*made, *limit_rows(where, found.limits, **about)])
            print("\n".join(["", f"{model}, {about['data']}", *show.table(numbers, default=infer.DEFAULT)]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
