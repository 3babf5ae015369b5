"""`mixonomy data`: finds the sub-command."""

import difflib
import importlib
import sys

COMMANDS = {
    "check": "look for unreadable files, duplicates, leaks between splits and contradictory labels",
}
USAGE = """usage: mixonomy data COMMAND [OPTIONS]

commands:
{commands}

`mixonomy data COMMAND --help` shows the options of a command."""


def main(argv: list[str]) -> int:
    """Runs a sub-command; each is a module `data_NAME` beside this one."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE.format(commands="\n".join(f"  {name:<9}{text}" for name, text in COMMANDS.items())))
        return 0 if argv else 2
    name, *rest = argv
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        print(f"mixonomy data: unknown command {name!r}; {hint}use {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    return importlib.import_module(f"mixonomy.cli.data_{name}").main(rest)
