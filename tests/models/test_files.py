"""Files of weights: what is written comes back, and whatever else is handed in gets one sentence and runs nothing."""

import json
import os
import pickle
import random
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from mixonomy.models import create, files, info_of, load_weights, read_npz, read_safetensors, save_model, set_info
from mixonomy.models.files import write_atomically, write_safetensors
from mixonomy.models.info import ModelInfo
from mixonomy.models.mixer import npz_name
from mixonomy.preprocessing import Preprocessing

SIZES = {"patch_size": 4, "hidden_dim": 8, "num_blocks": 2, "tokens_mlp_dim": 5, "channels_mlp_dim": 12}
PREPROCESSING = Preprocessing((8, 8), crop="squash", resize=1.5, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def tiny(image_size=8) -> nn.Module:
    torch.manual_seed(0)
    model = create("mixer", num_classes=3, image_size=image_size, gelu="erf", **SIZES)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    info = replace(
        info_of(model),
        class_names=("cat", "dog", "café ☕"),
        preprocessing=replace(PREPROCESSING, image_size=tuple(info_of(model).preprocessing.image_size)),
        loss="sigmoid",
        precision="fp32",
    )
    set_info(model, info)
    return model


def npz_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """The weights in Google's names and layout."""
    arrays = {}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        arrays[npz_name(name)] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return arrays


def rewritten(path: Path, **changes) -> Path:
    """The same .safetensors file with other entries in its description and no checksum; None removes an entry."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        content = {**json.loads(file.metadata()["mixonomy"]), "sha256": None, **changes}
    content = {key: value for key, value in content.items() if value is not None}
    save_file(tensors, path, metadata={"mixonomy": json.dumps(content)})
    return path


@pytest.fixture
def saved(tmp_path) -> Path:
    save_model(tiny(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("image_size", [8, (8, 12)])
def test_saved_model_comes_back_with_its_weights_class_names_and_preprocessing(tmp_path, image_size):
    model = tiny(image_size)
    save_model(model, tmp_path / "model.safetensors")
    loaded = read_safetensors(tmp_path / "model.safetensors")
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert info_of(loaded) == info_of(model)
    assert not loaded.training and all(p.requires_grad for p in loaded.parameters())
    images = torch.randn(2, 3, *info_of(model).preprocessing.image_size)
    assert torch.equal(loaded(images), model.eval()(images))


def test_loading_draws_no_random_numbers(saved):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    read_safetensors(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_model_of_ones_own_comes_back_into_a_module_built_alike(tmp_path):
    model, path = nn.Linear(4, 2), tmp_path / "own.safetensors"
    set_info(model, ModelInfo({}, Preprocessing((8, 8)), ("a", "b")))
    save_model(model, path)
    other = nn.Linear(4, 2)
    assert read_safetensors(path, other) is other
    assert torch.equal(other.weight, model.weight) and info_of(other).class_names == ("a", "b")
    with pytest.raises(ValueError, match="a module of your own"):
        read_safetensors(path)
    with pytest.raises(ValueError, match=r"weight is \[2, 4\] there and \[2, 5\] here"):
        read_safetensors(path, nn.Linear(5, 2))


def test_module_without_information_is_refused(tmp_path):
    with pytest.raises(ValueError, match="this Linear has no class names and preprocessing"):
        save_model(nn.Linear(4, 2), tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated_safetensors_file_is_refused(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        read_safetensors(saved)


@pytest.mark.slow
def test_flipped_bit_in_the_header_is_refused_in_one_sentence_or_changes_only_a_text(saved):
    content = saved.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    positions = random.Random(0).sample(range(header * 8), 400)
    wrong = []
    for position in positions:
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        saved.write_bytes(flipped)
        try:
            read_safetensors(saved)
        except ValueError as error:
            if saved.name not in str(error) or "\n" in str(error).strip():
                wrong.append((position, f"ValueError without the file's name: {error}"))
        except Exception as error:  # whatever else escapes is what is looked for
            wrong.append((position, repr(error)))
    assert not wrong, f"{len(wrong)} of {len(positions)}, such as {wrong[:5]}"


@pytest.mark.parametrize("key", ["format", "arguments", "class_names", "preprocessing", "loss", "precision"])
def test_description_that_lacks_an_entry_is_refused(saved, key):
    with pytest.raises(ValueError, match="model.safetensors"):
        read_safetensors(rewritten(saved, **{key: None}))


def test_foreign_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"x": torch.ones(2)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="was not written by mixonomy"):
        read_safetensors(path)


def test_newer_format_is_refused(saved):
    with pytest.raises(ValueError, match="has format 99, this version reads up to 1"):
        read_safetensors(rewritten(saved, format=99))


def test_missing_safetensors_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.safetensors"):
        read_safetensors(tmp_path / "nowhere.safetensors")


def test_other_shapes_are_named(saved):
    arguments = {**info_of(tiny()).arguments, "num_classes": 4}
    with pytest.raises(ValueError, match=r"head.weight is \[3, 8\] there and \[4, 8\] here"):
        read_safetensors(rewritten(saved, arguments=arguments))


def test_missing_and_extra_tensors_are_named_and_nothing_is_loaded():
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    tensors["intruder"] = tensors.pop("norm.bias")
    with pytest.raises(ValueError, match=r"here.bin does not fit.* lacks norm.bias; it also has intruder"):
        load_weights(model, tensors, "here.bin")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_problems_with_weights_read_as_a_sentence():
    model = tiny()
    tensors = {**model.state_dict(), "head.bias": torch.zeros(9)}
    with pytest.raises(ValueError, match="does not fit this model") as error:
        load_weights(model, tensors, "here.bin")
    assert "it head.bias" not in str(error.value)


def test_pickle_named_safetensors_or_npz_is_refused_and_not_run(tmp_path):
    for name, read in (("x.safetensors", read_safetensors), ("x.npz", read_npz)):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
        with pytest.raises(ValueError, match="cannot be read"):
            read(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_npz_layout_is_read(tmp_path):
    model = tiny()
    np.savez(tmp_path / "x.npz", **npz_arrays(model))
    loaded = read_npz(tmp_path / "x.npz")
    state = loaded.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert info_of(loaded).arguments == {**info_of(model).arguments, "gelu": "tanh"}
    assert not loaded.training


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_npz_of_another_precision_becomes_a_model_of_float32(tmp_path, dtype):
    np.savez(tmp_path / "x.npz", **{key: array.astype(dtype) for key, array in npz_arrays(tiny()).items()})
    model = read_npz(tmp_path / "x.npz")
    assert model(torch.zeros(1, 3, 8, 8)).dtype == torch.float32


def test_npz_of_integers_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", **{key: array.astype(np.int64) for key, array in npz_arrays(tiny()).items()})
    with pytest.raises(ValueError, match=r"x\.npz"):
        read_npz(tmp_path / "x.npz")


def test_npz_with_a_pickled_array_is_refused_and_not_run(tmp_path):
    evil = np.array([Bomb(tmp_path / "ran")], dtype=object)
    np.savez(tmp_path / "x.npz", **npz_arrays(tiny()), extra=evil)
    with pytest.raises(ValueError, match=r"x\.npz cannot be read as an \.npz of plain arrays"):
        read_npz(tmp_path / "x.npz")
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_npz_is_refused_in_one_sentence(tmp_path, compressed):
    path = tmp_path / "x.npz"
    (np.savez_compressed if compressed else np.savez)(path, **npz_arrays(tiny()))
    content = path.read_bytes()
    rng, wrong = random.Random(0), []
    damages = [content[: int(share * len(content))] for share in (0.0, 0.01, 0.5, 0.99)]
    for _ in range(120):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        damages.append(bytes(damaged))
    for damaged in damages:
        path.write_bytes(damaged)
        try:
            read_npz(path)
        except ValueError as error:
            if path.name not in str(error):
                wrong.append(f"ValueError without the file's name: {error}")
        except Exception as error:  # whatever else escapes is what is looked for
            wrong.append(repr(error))
    assert not wrong, f"{len(wrong)} of {len(damages)}, such as {wrong[:5]}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda arrays: arrays.pop("head/kernel"), "head/kernel"),
        (lambda arrays: arrays.pop("MixerBlock_1/LayerNorm_1/scale"), "blocks.1.norm2.weight"),
        (lambda arrays: arrays.update({"cls": np.zeros(3)}), "cls"),
        (lambda arrays: arrays.update({"stem/kernel": np.zeros(3)}), "stem|cannot be read"),
        (lambda arrays: arrays.update({"head/bias": np.zeros(7, np.float32)}), r"head.bias is \[7\]"),
        (lambda arrays: arrays.update({"MixerBlock_0/token_mixing/Dense_0/kernel": np.zeros((5, 5))}), "no square"),
    ],
    ids=["no head", "no norm", "extra", "flat stem", "other bias", "five tokens"],
)
def test_npz_of_something_else_is_refused(tmp_path, change, words):
    arrays = npz_arrays(tiny())
    change(arrays)
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=words) as error:
        read_npz(tmp_path / "x.npz")
    assert "x.npz" in str(error.value)


def test_other_files_named_npz_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.save(tmp_path / "x.npy", np.zeros(3))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    for content in ((tmp_path / "x.npy").read_bytes(), (tmp_path / "x.zip").read_bytes(), b"hello", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.npz"):
            read_npz(path)
    with pytest.raises(ValueError, match=r"nowhere\.npz"):
        read_npz(tmp_path / "nowhere.npz")


def test_file_is_replaced_whole(tmp_path):
    path = tmp_path / "x"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_old_file_stays_if_writing_fails(tmp_path, monkeypatch, failing):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["x"]


def test_half_precision_weights_become_a_model_of_float32(tmp_path):
    save_model(tiny().bfloat16(), tmp_path / "half.safetensors")
    back = read_safetensors(tmp_path / "half.safetensors")
    assert {parameter.dtype for parameter in back.parameters()} == {torch.float32}


def test_full_disk_is_an_error_of_the_system_with_the_name_of_the_file(tmp_path, monkeypatch):
    def full(_, path, **__):
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_safetensors(tmp_path / "x.safetensors", {"a": torch.ones(2)}, {})
    assert (caught.value.errno, caught.value.filename) == (28, str(tmp_path / "x.safetensors"))
    assert not list(tmp_path.iterdir())


def test_interrupted_write_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": torch.ones(2)}, {})
    before = path.read_bytes()

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        write_safetensors(path, {"a": torch.zeros(2)}, {})
    assert path.read_bytes() == before and [found.name for found in tmp_path.iterdir()] == [path.name]


def test_disk_that_fills_up_in_a_write_keeps_the_file_that_was_there(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this process may not mount a small file system")
    try:
        path = tmp_path / "x.safetensors"
        write_safetensors(path, {"a": torch.ones(400_000)}, {})
        before = path.read_bytes()
        with pytest.raises(OSError, match="No space left on device") as caught:
            write_safetensors(path, {"a": torch.zeros(500_000)}, {})
        assert caught.value.filename == str(path) and path.read_bytes() == before
        assert [found.name for found in tmp_path.iterdir()] == [path.name]
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)
