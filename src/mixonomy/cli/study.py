"""`mixonomy study`: finds the study."""

import difflib
import importlib
import sys

COMMANDS = {
    "taxonomy": "what each layer of a model mixes, and what that costs",
}
USAGE = """usage: mixonomy study COMMAND [OPTIONS]

commands:
{commands}

`mixonomy study COMMAND --help` shows the options of a command."""


def main(argv: list[str]) -> int:
    """Runs a study; each is a module `study_NAME` beside this one."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE.format(commands="\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())))
        return 0 if argv else 2
    name, *rest = argv
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        print(f"mixonomy study: unknown command {name!r}; {hint}use {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    return importlib.import_module(f"mixonomy.cli.study_{name}").main(rest)
