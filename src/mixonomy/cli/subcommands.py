"""Commands of two words: finds the module of the second."""

import difflib
import importlib
import sys

USAGE = """usage: mixonomy {name} COMMAND [OPTIONS]

commands:
{commands}

`mixonomy {name} COMMAND --help` shows the options of a command."""


def run(name: str, commands: dict[str, str], argv: list[str]) -> int:
    """Runs a sub-command; each is a module `NAME_COMMAND` beside this one.

    Args:
      name: of the command.
      commands: name of a sub-command -> what it does.
      argv: the words after the command.
    """
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, commands)) + 2
        lines = "\n".join(f"  {command:<{width}}{text}" for command, text in commands.items())
        print(USAGE.format(name=name, commands=lines))
        return 0 if argv else 2
    command, *rest = argv
    if command not in commands:
        near = difflib.get_close_matches(command, commands, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        print(f"mixonomy {name}: unknown command {command!r}; {hint}use {', '.join(commands)}.", file=sys.stderr)
        return 2
    return importlib.import_module(f"mixonomy.cli.{name}_{command}").main(rest)
