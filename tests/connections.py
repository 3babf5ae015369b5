"""What a process and all that it starts connect to, or look up."""

import os
import subprocess
import sys
from pathlib import Path

HOOK = """
import os, sys
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        file = os.open({file!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, f"{{sys.argv[:1]}} {{event}} {{arguments[1:]}}\\n".encode())
        os.close(file)
sys.addaudithook(note)
"""


def watched(folder: Path) -> dict[str, str]:
    """Variables with which Python notes every connection and look-up in `folder`; it was seen to do so once."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOOK.format(file=str(folder / "seen")))
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), variables.get("PYTHONPATH"))))
    code = "import subprocess, sys; subprocess.run([sys.executable, '-P', '-c', sys.argv[1]])"
    inner = "import socket; socket.socket(socket.AF_UNIX).connect_ex('nowhere')"
    subprocess.run([sys.executable, "-c", code, inner], env=variables, check=True)
    assert "socket.connect" in (folder / "seen").read_text(), "the hook sees a child connect"
    (folder / "seen").unlink()
    return variables


def seen(folder: Path) -> str:
    """What was noted since."""
    file = folder / "seen"
    return file.read_text() if file.exists() else ""
