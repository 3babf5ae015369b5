"""Rows of `mixonomy bench train`: our Mixers' training steps beside timm's and lucidrains'.

    python benchmarks/train.py [--cases cifar mixer-s/16 mixer-b/16] [--device cuda] [--quick] [--results FILE]

See `mixonomy.bench` for how it is measured. Rows are written case by case: what was measured stays.
"""

import argparse
import sys
from pathlib import Path

from mixonomy.bench import show, train
from mixonomy.bench.step import Case
from mixonomy.bench.train import case_of_model, case_of_recipe
from mixonomy.recipes.cifar10 import recipe as cifar10
from rows import RESULTS, append, limit_rows, number_rows, origin

CASES = {"cifar": case_of_recipe(cifar10), "mixer-s/16": case_of_model("mixer-s/16", 224)}
GPU_CASES = {"mixer-b/16": case_of_model("mixer-b/16", 224, batch_size=256)}  # a GPU's memory, and its work
_SIZES = {"patch_size": 4, "hidden_dim": 32, "num_blocks": 2, "tokens_mlp_dim": 16, "channels_mlp_dim": 64}
TINY = Case({"name": "mixer", "gelu": "erf", **_SIZES}, (16, 16), 8, num_classes=10, turn_s=0.0, gemm_size=128)


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each setting")
    parser.add_argument("--cases", nargs="+", choices=[*CASES, *GPU_CASES], default=list(CASES))
    settings = [*train.SETTINGS, *train.LESS_MEMORY]
    parser.add_argument("--settings", nargs="+", choices=[*settings, *train.COMPILED], default=settings)
    parser.add_argument("--quick", action="store_true", help="a tiny model and one round, to see that it works")
    parser.add_argument("--results", type=Path, default=RESULTS / "train.jsonl")
    options = parser.parse_args()
    cases = {"tiny": TINY} if options.quick else {name: (CASES | GPU_CASES)[name] for name in options.cases}
    where = origin(options.device)
    for name, case in cases.items():
        try:
            found = train.compare(
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
        numbers = {setting: found.numbers(setting) for setting in options.settings}
        about = {
            "study": "train",
            "data": f"random {case.image_size[0]} x {case.image_size[1]}, batch {case.batch_size}",
        }
        made = [
            row for key, each in numbers.items() for row in number_rows(where, each, model=f"{name}: {key}", **about)
        ]
        append(options.results, [*made, *limit_rows(where, found.limits, **about)])
        print("\n".join([f"{name}, {about['data']}", *found.limits.lines()]))
        print("\n".join(show.table(numbers, default=train.DEFAULT, leave_out=("top1_agreement",))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
