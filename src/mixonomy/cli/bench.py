"""`mixonomy bench`: finds what is to be measured."""

from mixonomy.cli import subcommands

COMMANDS = {
    "train": "training steps, beside timm and lucidrains/mlp-mixer-pytorch",
    "infer": "inference, beside timm, ONNX Runtime and OpenVINO",
    "data": "the input pipeline, beside timm, torchvision and webdataset",
}


def main(argv: list[str]) -> int:
    """Runs a sub-command."""
    return subcommands.run("bench", COMMANDS, argv)


def chosen(against: str, libraries: dict[str, str]) -> list[str]:
    """The names of the settings of ours and of the libraries in a comma-separated list.

    Args:
      libraries: name of a setting -> its library; "ours" is always chosen.
    Raises:
      ValueError: for an unknown library.
    """
    allowed = list(dict.fromkeys(library for library in libraries.values() if library != "ours"))
    wanted = [part.strip() for part in against.split(",") if part.strip()]
    for name in wanted:
        if name not in allowed:
            raise ValueError(f"--against has {name!r}; use {', '.join(allowed)}, comma-separated.")
    return [name for name, library in libraries.items() if library in ("ours", *wanted)]
