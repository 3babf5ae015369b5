"""`mixonomy bench`: finds what is to be measured."""

import difflib
import importlib
import sys

COMMANDS = {
    "train": "training steps, beside timm and lucidrains/mlp-mixer-pytorch",
    "infer": "inference, beside timm, ONNX Runtime and OpenVINO",
    "data": "the input pipeline, beside timm, torchvision and webdataset",
}
USAGE = """usage: mixonomy bench COMMAND [OPTIONS]

commands:
{commands}

`mixonomy bench COMMAND --help` shows the options of a command."""


def main(argv: list[str]) -> int:
    """Runs a benchmark; each is a module `bench_NAME` beside this one."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE.format(commands="\n".join(f"  {name:<9}{text}" for name, text in COMMANDS.items())))
        return 0 if argv else 2
    name, *rest = argv
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        print(f"mixonomy bench: unknown command {name!r}; {hint}use {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    return importlib.import_module(f"mixonomy.cli.bench_{name}").main(rest)
