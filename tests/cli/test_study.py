"""`mixonomy study`, run as a person runs it."""

import json
import re

import pytest

from mixonomy.cli import main


@pytest.mark.slow
def test_taxonomy_prints_a_table_and_its_json(capsys):
    assert main(["study", "taxonomy", "mixer-s/32", "--image-size", "64", "--json"]) == 0
    out, err = capsys.readouterr()
    (found,) = json.loads(out.splitlines()[-1])["taxonomy"]
    assert found["model"] == "mixer-s/32" and found["image_size"] == [64, 64]
    assert found["roles"]["channels"]["parameters"] > found["roles"]["locations"]["parameters"] > 0
    assert sum(role["macs"] for role in found["roles"].values()) == found["total"]["macs"]
    assert re.search(r"^blocks\.\*\.token_mixer x 8 +TokenMLP +locations ", err, re.MULTILINE)
    assert re.search(rf"^mixes locations +{found['roles']['locations']['parameters']:,} ", err, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["taxonomy", "mixer-b16"], 1, "did you mean 'mixer-b/16'?"),
        (["taxonomy", "mixer-s/32", "--image-size", "100"], 1, "not divisible by patch size 32"),
        (["taxonomi"], 2, "unknown command 'taxonomi'; did you mean 'taxonomy'?"),
    ],
)
def test_wrong_input_is_one_sentence(arguments, status, complaint, capsys):
    assert main(["study", *arguments]) == status
    err = capsys.readouterr().err.strip()
    assert complaint in err and "\n" not in err


def test_help_names_the_studies(capsys):
    assert main(["study"]) == 2 and main(["study", "--help"]) == 0
    assert re.search(r"^ +taxonomy +what each layer", capsys.readouterr().out, re.MULTILINE)
