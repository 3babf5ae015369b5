"""The command line: finds the command, and turns errors into one sentence. Heavy imports wait until a command runs."""

import difflib
import errno
import importlib
import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": "train a model by a recipe, or go on with an unfinished run",
    "eval": "score a trained model on labelled images",
    "predict": "classify image files",
    "fewshot": "score a model's features on other data, from few images of each class",
    "transfer": "fine-tune a model to every task of a suite, such as VTAB-1k",
    "serve": "answer images over HTTP, with a page to try the model",
    "report": "write the HTML report of a run again",
    "export": "write a model as a file for production: ONNX, OpenVINO, int8, safetensors, timm",
    "data": "check a data set before training on it",
    "bench": "measure training, inference or the input pipeline beside other libraries, on this machine",
    "study": "what a model is made of, and how it behaves",
    "list": "list models, data sets, recipes or published weights",
}
FULL = (errno.ENOSPC, errno.EDQUOT)
USAGE = """usage: mixonomy COMMAND [OPTIONS]

commands:
{commands}

`mixonomy COMMAND --help` shows the options of a command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    arguments = [*(sys.argv[1:] if argv is None else argv)]  # `list` is a command here
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE.format(commands="\n".join(f"  {name:<9}{text}" for name, text in COMMANDS.items())))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from mixonomy import __version__

        print(f"mixonomy {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        print(f"mixonomy: unknown command {name!r}; {hint}use {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    is_debug = "--debug" in rest
    rest = [argument for argument in rest if argument != "--debug"]
    try:
        if name != "train" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from mixonomy import parallel

            parallel.only_alone(f"mixonomy {name}")
        return importlib.import_module(f"mixonomy.cli.{name}").main(rest)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("mixonomy: stopped.", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        # Of torch's own errors only a full memory and a killed worker are the user's to mend.
        is_ours = not isinstance(error, RuntimeError) or _is_memory_full(error) or _is_of_a_worker(error)
        if is_debug or not is_ours:
            raise
        if _speaks(error):
            print(f"mixonomy {name}: {one_sentence(error)}", file=sys.stderr)
        return 1


def _speaks(error: Exception) -> bool:
    """Whether this process is the one to say an error; always without torchrun.

    What all ranks know the first says, and that one of them is lost the first of each machine; else it is the rank's
    own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return True
    from mixonomy import parallel

    if isinstance(error, parallel.RankLost):
        return parallel.local_rank() == 0
    return parallel.launched_rank() == 0 or (parallel.has_started and not isinstance(error, parallel.Failed))


def one_sentence(error: Exception) -> str:
    """The message of an error, on one line; validation errors without their technical parts."""
    if type(error).__name__ == "ValidationError":
        parts = []
        for problem in error.errors():  # type: ignore[attr-defined]
            place = ".".join(str(part) for part in problem["loc"])
            text = problem["msg"].removeprefix("Value error, ")
            parts.append(
                f"{place}: {text}, not {problem['input']!r}"
                if place and problem["type"] != "value_error"
                else f"{place}: {text}".lstrip(": ")
            )
        return "; ".join(parts) + "."
    if _is_memory_full(error):
        which = "the GPU's memory" if type(error).__name__ == "OutOfMemoryError" else "this machine's memory"
        return (
            f"{which} is full; give a smaller --batch-size, or in training --optim.accumulate 2 or more, or "
            "--optim.checkpoint-blocks."
        )
    if isinstance(error, RuntimeError) and _is_of_a_worker(error):
        from mixonomy.data.workers import ended_worker

        return ended_worker()
    if isinstance(error, OSError) and error.errno in FULL:
        where = f"the disk of {error.filename}" if error.filename else "the disk"
        return f"{where} is full; make room, then run the same command again."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or ''}".rstrip(": ") + "."
    return " ".join(str(error).split())


def _is_of_a_worker(error: RuntimeError) -> bool:
    from mixonomy.data.workers import is_of_a_worker

    return is_of_a_worker(error)


def _is_memory_full(error: Exception) -> bool:
    if not isinstance(error, MemoryError | RuntimeError):
        return False
    from mixonomy.devices import is_memory_full

    return is_memory_full(error)
