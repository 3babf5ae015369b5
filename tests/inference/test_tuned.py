"""The tuner: what it tries, what it refuses, and what it remembers."""

import copy
import json

import pytest
import torch
from test_packed import small

import mixonomy as mx
from mixonomy import devices
from mixonomy.inference import paths, tuned

pytestmark = pytest.mark.alone
IMAGES = torch.randn(5, 3, 16, 24, generator=torch.Generator().manual_seed(0))
CALIBRATION = torch.randn(64, 3, 16, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "fast.json"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_answers_are_the_models(cache, precision):
    model = small("mixer")
    fast = mx.fast(model, precision=precision, cache=cache)
    with torch.inference_mode():
        expected = model(IMAGES)
    found = fast(IMAGES)
    assert found.dtype == torch.float32 and fast.precision == precision
    assert paths.difference(found, expected) < paths.TOLERANCE[precision]
    assert set(fast.tried[8, 3, 16, 24]) == {f"eager {precision}", f"packed {precision}"}
    assert all(tried.problem is None and tried.seconds > 0 for tried in fast.tried[8, 3, 16, 24].values())


def test_batches_of_one_power_of_two_share_a_choice(cache):
    fast = mx.fast(small("mixer"), precision="fp32", cache=cache)
    for count in (1, 5, 8, 3):
        assert len(fast(IMAGES[:1].expand(count, -1, -1, -1))) == count
    assert set(fast.tried) == {(1, 3, 16, 24), (8, 3, 16, 24), (4, 3, 16, 24)}


def test_an_empty_batch_has_no_answers(cache):
    assert mx.fast(small("mixer"), precision="fp32", cache=cache)(IMAGES[:0]).shape == (0, 7)


def test_a_choice_is_remembered_and_still_verified(cache, monkeypatch):
    first = mx.fast(small("mixer"), precision="fp32", cache=cache)
    first(IMAGES)
    again = mx.fast(small("mixer"), precision="fp32", cache=cache)
    again(IMAGES)
    assert not again.tried and again.backend == first.backend
    # A remembered path that computes something else is not used.
    cache.write_text(json.dumps(dict.fromkeys(json.loads(cache.read_text()), "packed fp32")))
    monkeypatch.setattr(paths, "packed", lambda model, _: lambda x: model(x) + 1)
    wrong = mx.fast(small("mixer"), precision="fp32", cache=cache)
    wrong(IMAGES)
    assert wrong.tried and wrong.backend == "eager"


@pytest.mark.parametrize("content", ["", "[1]", '{"x": ', b"\xff\xfe"])
def test_a_damaged_memory_is_replaced(cache, content):
    cache.parent.mkdir()
    cache.write_bytes(content if isinstance(content, bytes) else content.encode())
    mx.fast(small("mixer"), precision="fp32", cache=cache)(IMAGES)
    assert len(json.loads(cache.read_text())) == 1


def test_a_memory_that_cannot_be_written_is_said_once(tmp_path):
    (tmp_path / "file").write_text("")
    fast = mx.fast(small("mixer"), precision="fp32", cache=tmp_path / "file" / "fast.json")
    with pytest.warns(UserWarning, match="cannot be kept"):
        fast(IMAGES)


def test_a_path_that_fails_is_named_and_not_used(cache, monkeypatch):
    monkeypatch.setattr(paths, "packed", lambda *_: (_ for _ in ()).throw(RuntimeError("no such\noperator")))
    fast = mx.fast(small("mixer"), precision="fp32", cache=cache)
    fast(IMAGES)
    assert fast.backend == "eager"
    assert fast.tried[8, 3, 16, 24]["packed fp32"].problem == "no such operator"


def test_the_last_resort_is_the_model_in_float32(cache, monkeypatch):
    monkeypatch.setattr(paths, "TOLERANCE", dict.fromkeys(paths.TOLERANCE, -1.0))
    model = small("mixer")
    fast = mx.fast(model, precision="bf16", cache=cache)
    assert torch.equal(fast(IMAGES), model(IMAGES)) and (fast.backend, fast.precision) == ("eager", "fp32")


def test_a_path_that_differs_is_named_and_not_used(cache, monkeypatch):
    monkeypatch.setattr(paths, "packed", lambda model, _: lambda x: model(x) * 1.01)
    fast = mx.fast(small("mixer"), precision="fp32", cache=cache)
    fast(IMAGES)
    assert fast.backend == "eager"
    assert "differs" in fast.tried[8, 3, 16, 24]["packed fp32"].problem


def test_integers_are_used_only_if_answers_stay(cache, monkeypatch):
    fast = mx.fast(small("mixer"), CALIBRATION, precision="bf16", max_changed=1.0, cache=cache)
    fast(IMAGES)
    assert fast.tried[8, 3, 16, 24]["packed int8"].problem is None
    turned = copy.deepcopy(small("mixer"))
    turned.head.weight.data.neg_()
    monkeypatch.setattr(paths, "int8", lambda *_: lambda x: turned(x.float()))
    monkeypatch.setattr(paths.openvino, "is_installed", lambda: False)
    strict = mx.fast(small("mixer"), CALIBRATION, precision="bf16", max_changed=0.5, cache=cache)
    strict(IMAGES)
    assert "of the calibration images" in strict.tried[8, 3, 16, 24]["packed int8"].problem
    assert strict.precision != "int8"


def test_no_integers_without_calibration(cache):
    fast = mx.fast(small("mixer"), cache=cache)
    fast(IMAGES)
    assert "packed int8" not in fast.tried[8, 3, 16, 24]


@pytest.mark.parametrize(
    ("calibration", "max_changed", "words"),
    [
        (CALIBRATION[:10], 0.01, "has 10 images; give at least 64"),
        (CALIBRATION.to(torch.uint8), 0.01, "is torch.uint8"),
        (CALIBRATION[:, 0], 0.01, "give float images"),
        (None, 1.5, "a share from 0 to 1"),
        (None, float("nan"), "a share from 0 to 1"),
    ],
)
def test_wrong_arguments(calibration, max_changed, words):
    with pytest.raises(ValueError, match=words):
        mx.fast(small("mixer"), calibration, max_changed=max_changed)


@pytest.mark.very_slow
@pytest.mark.skipif(not devices.has_compiler(), reason="no C++ compiler")
def test_compiled_path(cache):
    fast = mx.fast(small("convmixer"), precision="fp32", compile=True, cache=cache)
    fast(IMAGES)
    assert fast.tried[8, 3, 16, 24]["compiled fp32"].problem is None


def test_calls_slowed_by_the_path_before_them_are_not_what_is_compared(monkeypatch):
    clock, slow_until = [0.0], [0.0]
    monkeypatch.setattr(tuned.time, "perf_counter", lambda: clock[0])

    def quick(images):  # 10 ms, but 40 ms as long as threads of `even` still wait for work
        clock[0] += 0.04 if clock[0] < slow_until[0] else 0.01
        return images

    def even(images):
        clock[0] += 0.012
        slow_until[0] = clock[0] + 0.05
        return images

    assert tuned.in_turns([quick, even], torch.zeros(1)) == pytest.approx([0.01, 0.012])
