"""`mixonomy study`: finds the study."""

from mixonomy.cli import subcommands

COMMANDS = {
    "taxonomy": "what each layer of a model mixes, and what that costs",
}


def main(argv: list[str]) -> int:
    """Runs a sub-command."""
    return subcommands.run("study", COMMANDS, argv)
