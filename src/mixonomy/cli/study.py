"""`mixonomy study`: finds the study."""

from mixonomy.cli import subcommands

COMMANDS = {
    "compare": "which architecture is worth its cost on given data",
    "paper": "the paper's numbers beside ours, and what the others take",
    "permutation": "what shuffled patches and pixels cost a Mixer, ResNet, ViT and ConvMixer",
    "weights": "what the weights have learned: token-mixing units drawn, and how far each block looks",
    "taxonomy": "what each layer of a model mixes, and what that costs",
    "ablate": "what each part of a Mixer and its recipe is worth, one thing at a time",
    "scale": "model size against number of images, and the resolution of fine-tuning",
}


def main(argv: list[str]) -> int:
    """Runs a sub-command."""
    return subcommands.run("study", COMMANDS, argv)
