"""Options of a command from a dataclass, by tyro; a wrong option gives one sentence."""

import ast
import contextlib
import io
import os
import re
import sys
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
# tyro's and Python's words -> ours.
_FORMS = {
    "FLOAT": "a number", "INT": "a whole number", "INT INT": "two of them", "[FLOAT [FLOAT ...]]": "a list of numbers",
    "[INT [INT ...]]": "a list of whole numbers", "invalid literal for int() with base 10": "a whole number",
    "could not convert string to float": "a number",
}  # fmt: skip


def parse(command: type[T], argv: list[str], *, name: str, default: T | None = None) -> T:
    """Reads a command's options.

    Args:
      command: a dataclass; its docstring and those of its fields are the help.
      name: of the command.
      default: values of options that are not given.
    Raises:
      SystemExit: with 0 after --help, with 2 after one sentence about a wrong option.
    """
    import tyro

    prog = f"mixonomy {name}"
    given: dict[str, Any] = {} if default is None else {"default": default}
    if {"-h", "--help"} & set(argv):
        return tyro.cli(command, args=argv, prog=prog, **given)
    complaint = io.StringIO()
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100000"  # so that the complaint is not wrapped
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(command, args=argv, prog=prog, **given)
    except SystemExit as stop:
        if stop.code:
            print(
                f"{prog}: {_sentence(complaint.getvalue())}; `{prog} --help` shows all options.",
                file=sys.stderr,
            )
        raise
    finally:
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)


def check_out(out: Path, ending: str, otherwise: str = "") -> None:
    """Refuses an --out that cannot be written, before any work is done for it.

    Args:
      ending: that the name must have, such as ".csv", so that no file of another kind is replaced.
      otherwise: what else can be done.
    """
    if out.suffix.lower() != ending:
        raise ValueError(f"--out is {out}; give a name that ends in {ending}{otherwise}.")
    if out.is_dir() or not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise ValueError(f"cannot write to {out}; --out must be a file in a folder that exists and can be written to.")


def _sentence(box: str) -> str:
    """Takes the message out of the box that tyro draws around it."""
    raw = box.strip().splitlines()
    # In a terminal without UTF-8 there is no box, but a title and a rule.
    lines = [line.strip("│ ").strip() for line in (raw[1:-1] if raw[0].startswith("╭") else raw[2:])]
    rules = [i for i, line in enumerate(lines) if line and not line.strip("─-")]
    message = " ".join(lines[: rules[0] if rules else None])
    section, problems = _validation_problems(message, lines)
    if problems:
        message = "; ".join(f"{section}{problem}" for problem in problems)
    no_form = r"(?i)Error parsing ([\w.-]+): no type matching (.+?) could be instantiated from (\[.*?\])\."
    if union := re.match(no_form, message):
        forms = [form.strip(" {}") for form in union[2].split("|")]
        readable = " or ".join(_FORMS.get(form, form) for form in forms if form != "None")
        message = f"{union[1]}: {', '.join(ast.literal_eval(union[3]))} is not {readable}"
    if single := re.match(rf"Error parsing (.+?): ({'|'.join(map(re.escape, _FORMS))}): '(.*)'$", message):
        message = f"{single[1]}: {single[3]} is not {_FORMS[single[2]]}"
    if several := re.match(r"Error parsing (.+?): Could not find valid parse for arguments: (\[.*?\])$", message):
        form = next((line.removeprefix(several[1]).strip() for line in lines if line.startswith(several[1])), "")
        message = f"{several[1]}: {', '.join(ast.literal_eval(several[2]))} is not {_FORMS.get(form, form)}"
    if missing := re.match(r"Missing from .+?: ([A-Z.]+|--[\w.-]+) .*\(required\)$", message):
        return f"{missing[1]} is missing"
    message = re.sub(r"^Error parsing (?:fields\.)?", "", message)
    after = lines[lines.index("Perhaps you meant:") :] if "Perhaps you meant:" in lines else []
    suggestions = [line.split()[0] for line in after if re.match(r"--\w", line)]
    if suggestions:
        message += f"; did you mean {' or '.join(dict.fromkeys(suggestions[:3]))}?"
    return message[:1].lower() + message[1:].rstrip(".?")


def _validation_problems(message: str, lines: list[str]) -> tuple[str, list[str]]:
    """("--optim.", ["lr: ... , not nan"]) from the text of a pydantic error."""
    found = re.match(r"Error parsing (?:fields)?\.?([\w.]*): \d+ validation errors? for \w+", message)
    if not found:
        return "", []
    section = f"{found[1]}." if found[1] else ""
    problems = []
    field = ""
    for line in lines[1:]:
        if line.startswith("For further information"):
            continue
        if not line.strip("─-"):
            break
        problem = re.match(r"(.*) \[type=(\w+), input_value=(.*), input_type=\w+\]$", line)
        if not problem:
            field = line
        elif problem[2] == "value_error":
            text = problem[1].removeprefix("Value error, ")
            problems.append(f"{field.replace('_', '-')}: {text}" if field else text)
            field = ""
        else:
            problems.append(f"{field.replace('_', '-')}: {problem[1]}, not {problem[3]}")
            field = ""
    return (f"--{section}" if any(":" in p for p in problems) else section.replace(".", ": ")), problems
