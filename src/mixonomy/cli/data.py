"""`mixonomy data`: finds the sub-command."""

from mixonomy.cli import subcommands

COMMANDS = {
    "check": "look for unreadable files, duplicates, leaks between splits and contradictory labels",
    "pack": "write a data set as tar shards with an index, for training that reads in sequence",
}


def main(argv: list[str]) -> int:
    """Runs a sub-command."""
    return subcommands.run("data", COMMANDS, argv)
