"""`mixonomy study`: finds the study."""

from mixonomy.cli import subcommands

COMMANDS = {
    "weights": "what the weights have learned: token-mixing units drawn, and how far each block looks",
    "taxonomy": "what each layer of a model mixes, and what that costs",
}


def main(argv: list[str]) -> int:
    """Runs a sub-command."""
    return subcommands.run("study", COMMANDS, argv)
