"""Files that somebody made to do harm, or that a disk bent: one sentence each, and nothing of them is ever run."""

import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import mixonomy as mx
from mixonomy.models.mixer import npz_name

SIZES = {"patch_size": 4, "hidden_dim": 8, "num_blocks": 2, "tokens_mlp_dim": 5, "channels_mlp_dim": 12}
CONFIG = {"architecture": "mixer_b16_224", "pretrained_cfg": {"input_size": [3, 8, 8], "num_classes": 3}}


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def tiny() -> nn.Module:
    torch.manual_seed(0)
    model = mx.create("mixer", num_classes=3, image_size=8, **SIZES)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.eval()


def refusal(where) -> str:
    """The one sentence that loading ends with, quickly."""
    start = time.process_time()
    with pytest.raises(ValueError) as error:
        mx.load(where)
    assert time.process_time() - start < 10, "a file makes nobody wait"
    text = str(error.value)
    assert "\n" not in text.strip() and text.endswith(".") and len(text) < 1500, text
    return text


@pytest.fixture
def saved(tmp_path) -> Path:
    mx.save(tiny(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def described(path: Path, **changes) -> Path:
    """The file with other entries in its description, and no checksum that would give them away."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        content = {**json.loads(file.metadata()["mixonomy"]), **changes}
    content.pop("sha256")
    save_file(tensors, path, metadata={"mixonomy": json.dumps(content)})
    return path


def argued(path: Path, **changes) -> Path:
    """The file with other arguments of the model."""
    with safe_open(path, framework="pt") as file:
        arguments = json.loads(file.metadata()["mixonomy"])["arguments"]
    return described(path, arguments={**arguments, **changes})


def npz_arrays() -> dict[str, np.ndarray]:
    arrays = {}
    for name, tensor in tiny().state_dict().items():
        array = tensor.numpy()
        arrays[npz_name(name)] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return arrays


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.bin", "m.ckpt", "m.pkl", "m.PT"])
def test_pickles_are_refused_by_their_name(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    assert "may hold a program" in refusal(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["m.safetensors", "m.npz"])
@pytest.mark.parametrize("kind", ["pickle", "torch", "array"])
def test_pickles_under_another_name_are_refused_and_not_run(tmp_path, name, kind):
    bomb, file = Bomb(tmp_path / "ran"), io.BytesIO()
    if kind == "pickle":
        pickle.dump(bomb, file)
    elif kind == "torch":
        torch.save({"weight": bomb}, file)
    else:
        np.savez(file, **npz_arrays(), extra=np.array([bomb], dtype=object))
    (tmp_path / name).write_bytes(file.getvalue())
    assert "cannot be read" in refusal(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_bit_that_flipped_in_the_weights_is_found(saved):
    content = bytearray(saved.read_bytes())
    for at in (len(content) - 1, len(content) - 1000):
        flipped = bytearray(content)
        flipped[at] ^= 1
        saved.write_bytes(flipped)
        assert "does not match its own checksum: it is damaged" in refusal(saved)
    saved.write_bytes(content)
    mx.load(saved)


def test_class_name_that_was_changed_afterwards_is_found(saved):
    with safe_open(saved, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        content = {**json.loads(file.metadata()["mixonomy"]), "class_names": ["good", "evil", "x"]}
    save_file(tensors, saved, metadata={"mixonomy": json.dumps(content)})
    assert "does not match its own checksum" in refusal(saved)


def test_file_that_was_cut_off_is_refused(saved):
    saved.write_bytes(saved.read_bytes()[:-7])
    assert "cannot be read as safetensors" in refusal(saved)


@pytest.mark.parametrize("length", [2**63, 2**40, 10**8, 0])
def test_header_that_claims_another_length_is_refused(tmp_path, length):
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", length) + b"{}" + b"\0" * 64)
    assert "m.safetensors" in refusal(tmp_path / "m.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["safetensors", "npz", "timm"])
def test_weights_that_are_no_numbers_are_refused(tmp_path, kind, value):
    model = tiny()
    with torch.no_grad():
        model.get_submodule("norm").get_parameter("bias")[3] = value
    path = tmp_path / f"m.{'npz' if kind == 'npz' else 'safetensors'}"
    if kind == "safetensors":
        mx.save(model, path)
    elif kind == "npz":
        np.savez(path, **{**npz_arrays(), "pre_head_layer_norm/bias": np.full(8, value, np.float32)})
    else:
        renamed = {k.replace("token_mixer", "mlp_tokens").replace("channel_mixer", "mlp_channels"): t
                   for k, t in model.state_dict().items()}  # fmt: skip
        save_file(renamed, path)
    assert "holds weights that are no finite numbers (norm.bias)" in refusal(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_blocks": 10**9},
        {"num_blocks": 10**400},
        {"hidden_dim": 10**15},
        {"hidden_dim": -8},
        {"hidden_dim": 8.5},
        {"hidden_dim": "8"},
        {"hidden_dim": [8] * 10**5},
        {"num_classes": 2**40},
        {"image_size": [2**40, 2**40]},
        {"image_size": [8]},
        {"image_size": ["8", "8"]},
        {"image_size": None},
        {"name": "mixer-x"},
        {"name": 3},
        {"name": "timm:../../etc/passwd"},
        {"name": "timm:hf-hub:evil/model"},
        {"gelu": "evil" * 10**5},
        {"__class__": "x"},
        {"device": "cuda"},
    ],
    ids=lambda changes: "-".join(f"{key}={str(value)[:20]}" for key, value in changes.items()),
)
def test_hostile_arguments_of_the_model_are_refused(saved, changes):
    assert "model.safetensors" in refusal(argued(saved, **changes))


@pytest.mark.slow
def test_small_file_that_names_a_giant_model_takes_no_memory(saved):
    arguments = {"name": "timm:vit_giant_patch14_224", "num_classes": 3, "image_size": [224, 224], "in_channels": 3}
    path = described(saved, arguments={**arguments, "stem": "imagenet"})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "does not fit this model: it lacks body." in refusal(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert grown < 1_500_000, "the model has a billion parameters, 4 GB"


@pytest.mark.parametrize(
    "changes",
    [
        {"class_names": "abc"},
        {"class_names": [1, 2, 3]},
        {"loss": "exec"},
        {"precision": "int1"},
        {"temperature": "nan"},
        {"temperature": 0},
        {"thresholds": ["x"]},
        {"arguments": []},
        {"trained_on": {"__class__": 1}},
        {"preprocessing": {"image_size": [2**40, 8]}},
        {"preprocessing": None},
        {"layout": "pickle"},
        {"format": "1"},
        {"format": None},
    ],
    ids=str,
)
def test_hostile_descriptions_are_refused(saved, changes):
    assert "model.safetensors" in refusal(described(saved, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"resize": 1e9},
        {"resize": float("nan")},
        {"mean": [1e400] * 3},
        {"mean": ["x"] * 3},
        {"std": [0.0] * 3},
        {"image_size": [10**400, 8]},
        {"crop": "../x"},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_hostile_preprocessing_is_refused(saved, changes):
    with safe_open(saved, framework="pt") as file:
        preprocessing = json.loads(file.metadata()["mixonomy"])["preprocessing"]
    assert "damaged description" in refusal(described(saved, preprocessing={**preprocessing, **changes}))


def test_description_of_endless_depth_is_refused(saved):
    with safe_open(saved, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, saved, metadata={"mixonomy": "[" * 10**5 + "]" * 10**5})
    assert "damaged description" in refusal(saved)


@pytest.fixture
def timm_folder(tmp_path) -> Path:
    """A folder as timm writes it, with a Mixer."""
    renamed = {
        key.replace("token_mixer", "mlp_tokens").replace("channel_mixer", "mlp_channels"): tensor
        for key, tensor in tiny().state_dict().items()
    }
    save_file(renamed, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    mx.load(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "config",
    [
        [],
        "text",
        {},
        {**CONFIG, "architecture": "/etc/passwd"},
        {**CONFIG, "architecture": "../../x"},
        {**CONFIG, "architecture": "hf-hub:evil/x"},
        {**CONFIG, "architecture": 3},
        {**CONFIG, "architecture": "a" * 10**6},
        {**CONFIG, "num_classes": 10**18},
        {**CONFIG, "num_classes": -1},
        {**CONFIG, "num_classes": "3"},
        {**CONFIG, "model_args": {"act_layer": "os.system"}},
        {**CONFIG, "model_args": {"img_size": 10**12}},
        {**CONFIG, "model_args": "x"},
        {**CONFIG, "model_args": {"num_heads": "x"}},
        {**CONFIG, "model_args": {"num_heads": 0}},
        {**CONFIG, "model_args": {"num_heads": [2]}},
        {**CONFIG, "pretrained_cfg": "x"},
        {**CONFIG, "pretrained_cfg": {"input_size": [3, 10**9, 10**9]}},
        {**CONFIG, "pretrained_cfg": {"input_size": "3,8,8"}},
        {**CONFIG, "pretrained_cfg": {"input_size": [3, 8]}},
        {**CONFIG, "pretrained_cfg": {"input_size": [3, 8, 8], "crop_pct": 0}},
        {**CONFIG, "pretrained_cfg": {"input_size": [3, 8, 8], "crop_pct": "x" * 10**5}},
        {**CONFIG, "pretrained_cfg": {"input_size": [3, 8, 8], "mean": "evil"}},
        {**CONFIG, "pretrained_cfg": {"input_size": [3, 8, 8], "std": [0, 0, 0]}},
    ],
    ids=lambda config: str(config)[:90],
)
def test_hostile_config_json_is_refused(timm_folder, config):
    (timm_folder / "config.json").write_text(json.dumps(config))
    assert "config.json" in refusal(timm_folder)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("blocks.999999999.x", (1,), "num_blocks is far too large"),
        ("stem.proj.weight", (8, 3, 0, 0), "stem.proj.weight is"),
        ("blocks.0.mlp_channels.fc1.weight", (2**62, 0), "channels_mlp_dim is far too large"),
    ],
)
def test_shapes_and_names_in_a_file_of_timm_that_ask_for_a_giant_are_refused(timm_folder, name, shape, words):
    tensors = load_file(timm_folder / "model.safetensors")
    save_file(tensors | {name: torch.zeros(shape)}, timm_folder / "model.safetensors")
    (timm_folder / "config.json").unlink()
    assert words in refusal(timm_folder / "model.safetensors")


def test_whole_numbers_in_place_of_weights_are_refused(timm_folder):
    tensors = {name: tensor.long() for name, tensor in load_file(timm_folder / "model.safetensors").items()}
    save_file(tensors, timm_folder / "model.safetensors")
    (timm_folder / "config.json").unlink()
    assert "torch.int64 there and torch.float32 here" in refusal(timm_folder / "model.safetensors")


def test_npz_with_patches_of_no_pixels_is_refused(tmp_path):
    np.savez(tmp_path / "m.npz", **(npz_arrays() | {"stem/kernel": np.zeros((0, 0, 3, 8), np.float32)}))
    with pytest.raises(ValueError, match="patches of 0 pixels"):
        mx.load(tmp_path / "m.npz", image_size=8)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"{", b"[" * 10**5 + b"]" * 10**5, b" " * (2**24 + 1) + b"{}"],
                         ids=["no text", "empty", "cut off", "deep", "large"])  # fmt: skip
def test_config_json_that_is_no_json_is_refused(timm_folder, content):
    (timm_folder / "config.json").write_bytes(content)
    assert "config.json" in refusal(timm_folder) and "cannot be read" in refusal(timm_folder)


def test_config_json_names_no_other_file(timm_folder):
    secret = timm_folder / "secret.bin"
    secret.write_bytes(pickle.dumps(Bomb(timm_folder / "ran")))
    hostile = {"file": str(secret), "url": f"file://{secret}", "hf_hub_id": "../../x", "custom_load": True}
    (timm_folder / "config.json").write_text(
        json.dumps({**CONFIG, "pretrained_cfg": {**CONFIG["pretrained_cfg"], **hostile}})
    )
    mx.load(timm_folder)  # these words are not read
    assert not (timm_folder / "ran").exists()


def test_npz_that_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**25,)})
        archive.writestr("stem/kernel.npy", header.getvalue() + bytes(2**27))
    assert (tmp_path / "m.npz").stat().st_size < 2**18
    assert "it unpacks to 134 MB, over 100 times its size" in refusal(tmp_path / "m.npz")


@pytest.mark.parametrize("shape", [(2**62,), (2**40, 2**20), (-1,), (10**30,)])
def test_npz_whose_header_claims_a_giant_array_is_refused(tmp_path, shape):
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        archive.writestr(
            "stem/kernel.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + b"\0" * 8
        )
    assert "m.npz cannot be read" in refusal(tmp_path / "m.npz")


def test_npz_with_names_that_climb_out_writes_nothing(tmp_path):
    (tmp_path / "inner").mkdir()
    with zipfile.ZipFile(tmp_path / "inner/m.npz", "w") as archive:
        file = io.BytesIO()
        np.save(file, np.zeros(3, np.float32))
        archive.writestr("../../evil.npy", file.getvalue())
    assert "m.npz" in refusal(tmp_path / "inner/m.npz")
    assert [path.name for path in tmp_path.rglob("evil*")] == []


def test_own_models_load_and_predict_without_timm(saved):
    code = (
        "import sys, numpy, mixonomy as mx\n"
        f"list(mx.predict({str(saved)!r}, [numpy.zeros((9, 9, 3), numpy.uint8)]))\n"
        "assert not {'timm', 'torchvision', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
