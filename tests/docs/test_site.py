"""The site builds without a warning, and its reference leaves nothing out."""

import os
import re
import subprocess
import sys

import pytest
from doc_pages import ROOT

import mixonomy as mx
from mixonomy.cli import COMMANDS, bench, data, study
from mixonomy.recipes import recipe_names

pytest.importorskip("mkdocstrings", reason="needs the extra docs")

REFERENCE = ROOT / "docs" / "reference"
GROUPS = {"bench": bench.COMMANDS, "data": data.COMMANDS, "study": study.COMMANDS}


@pytest.mark.slow
def test_site_builds_with_every_page_in_its_navigation_and_every_link_alive(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "not included in the" not in done.stderr, done.stderr  # pages that no menu shows
    text = (tmp_path / "reference" / "commands" / "index.html").read_text()
    assert "--max-drop" in text and "<!-- options" not in text
    text = (tmp_path / "reference" / "python" / "index.html").read_text()
    assert "Writes a model as a file of another kind" in text
    others = re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?|png|svg))"', text)
    assert others == []  # nothing of the page comes from elsewhere


def test_every_command_has_its_options_in_the_reference():
    names = [f"{name} {part}" for name, parts in GROUPS.items() for part in parts]
    names += [name for name in COMMANDS if name not in GROUPS]
    found = re.findall(r"^## (.+)\n\n<!-- options: ", (REFERENCE / "commands.md").read_text(), re.MULTILINE)
    assert sorted(found) == sorted(names)


def test_every_recipe_is_in_the_reference():
    found = re.findall(r"^::: mixonomy\.recipes\.(\w+)$", (REFERENCE / "recipes.md").read_text(), re.MULTILINE)
    assert found == recipe_names()


def test_every_public_name_is_in_the_reference():
    found = re.findall(r"^::: mixonomy[.\w]*\.(\w+)$", (REFERENCE / "python.md").read_text(), re.MULTILINE)
    assert set(mx.__all__) - {"Recipe"} <= set(found)
