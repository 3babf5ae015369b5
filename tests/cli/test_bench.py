"""`mixonomy bench`, run as a person runs it."""

import json

import pytest

from mixonomy.cli import main


@pytest.mark.slow
def test_train_prints_a_table_and_its_json(capsys):
    command = [
        "bench",
        "train",
        "--recipe",
        "digits",
        "--batch-size",
        "4",
        "--against",
        "lucidrains",
        "--quick",
        "--json",
    ]
    assert main(command) == 0
    out, err = capsys.readouterr()
    found = json.loads(out.splitlines()[-1])
    keys = {"images_per_s", "share_of_limit", "ratio_default", "ratio_best", "precision", "backend"}
    assert keys | {"peak_memory_bytes", "first_s"} <= set(found) and found["batch_size"] == 4
    assert set(found["peers"]) == {"lucidrains fp32", "lucidrains bf16 autocast"}
    assert found["images_per_s"] > 0 and found["ratio_default"] is None, "timm was not asked for"
    assert set(found["limits"]["gemm"]) == {"fp32", "bf16", "int8"}
    assert "CPU: avx2" in err and "training digits, 8 x 8 pixels, batch 4, cpu" in err


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["trian"], 2, "unknown command 'trian'; did you mean 'train'?"),
        (["train", "--model", "mixer-b16"], 1, "did you mean 'mixer-b/16'?"),
        (["train", "--model", "mixer-s/16", "--recipe", "digits"], 1, "give one of them"),
        (["train", "--against", "tim"], 1, "--against has 'tim'; use timm, lucidrains"),
        (["infer", "--against", "tensorrt"], 1, "use timm, lucidrains, onnxruntime, openvino"),
        (["infer", "--batch-size", "0"], 1, "--batch-size is 0; give at least 1"),
    ],
)
def test_wrong_input_is_one_sentence(arguments, status, complaint, capsys):
    assert main(["bench", *arguments]) == status
    err = capsys.readouterr().err.strip()
    assert complaint in err and "\n" not in err


def test_help_names_what_can_be_measured(capsys):
    assert main(["bench"]) == 2 and main(["bench", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in ("train", "infer", "data"))
