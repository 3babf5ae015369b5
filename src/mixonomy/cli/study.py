"""`mixonomy study`: finds the study."""

from mixonomy.cli import subcommands

COMMANDS = {
    "permutation": "what shuffled patches and pixels cost a Mixer, ResNet, ViT and ConvMixer",
    "taxonomy": "what each layer of a model mixes, and what that costs",
}


def main(argv: list[str]) -> int:
    """Runs a sub-command."""
    return subcommands.run("study", COMMANDS, argv)
