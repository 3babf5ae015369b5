"""int8: the bound of the drop, which operations stay in float, and the gate."""

import re

import numpy as np
import pytest
import torch
from exports import folder_of_images, small
from torch import nn

import mixonomy as mx
from mixonomy.evals import normalise
from mixonomy.export import export_model, int8
from mixonomy.export.describe import Origins, described
from mixonomy.export.graph import to_openvino
from mixonomy.export.int8 import Z, smaller, upper_bound
from mixonomy.inference.runtimes import openvino_model
from mixonomy.models import info_of

pytestmark = pytest.mark.alone


def test_bound_without_any_changed_answer_tells_many_images_from_few():
    for n in (1, 50, 541, 10_000):
        assert upper_bound(n, 0, 0) == pytest.approx(Z**2 / (n + Z**2), abs=1e-9)
    assert upper_bound(541, 0, 0) < 0.005 < upper_bound(530, 0, 0)


def test_bound_is_that_of_the_normal_distribution_where_images_are_many():
    n, lost, gained = 100_000, 900, 700
    deviation = np.sqrt(lost + gained - (lost - gained) ** 2 / n) / n
    assert upper_bound(n, lost, gained) == pytest.approx((lost - gained) / n + Z * deviation, rel=0.01)
    assert upper_bound(n, gained, lost) < 0


@pytest.mark.parametrize(("lost", "gained"), [(0.01, 0.005), (0.03, 0.03), (0.002, 0.0)])
def test_bound_holds_for_95_of_100_experiments(lost, gained):
    n, draws = 1000, np.random.default_rng(0).multinomial(1000, (lost, gained, 1 - lost - gained), size=1000)
    held = np.mean([upper_bound(n, b, c) >= lost - gained for b, c, _ in draws])
    assert held > 0.93


@pytest.mark.parametrize(
    ("n", "lost", "gained", "problem"),
    [
        (10_000, 10, 8, None),
        (0, 0, 0, "no labelled images that the model has not learned from"),
        (100, 0, 0, "100 validation images are too few to tell.*at least 539 are needed"),
        (1_000, 12, 8, "1,000 validation images are too few to tell: the drop of top-1 is 0.40 points there"),
        (143, 2, 0, "143 validation images are too few to tell: the drop of top-1 is 1.40 points there"),
        (10_000, 200, 100, "it costs 1.00 points of top-1 on 10,000 validation images, and 0.5 are allowed"),
    ],
)
def test_gate_says_why(n, lost, gained, problem):
    found = int8._problem(n, lost, gained, 0.5)
    assert found is None if problem is None else re.search(problem, found or "")


@pytest.mark.slow
def test_a_layer_that_hurts_stays_in_float(tmp_path):
    pytest.importorskip("nncf")
    model = small("mixer", (16, 16))
    block = model.blocks[1]
    with torch.no_grad():  # one channel so large that 255 levels leave none for the others, and that nothing reads
        block.norm2.weight[0] = 3e4
        block.channel_mixer.fc1.weight[:, 0] = 0
    info = info_of(model)
    graph = tmp_path / "m.xml"
    text = described(info, Origins(), to="openvino", precision="fp32", num_images=None)
    to_openvino(model, info, graph, text, num_images=None)
    images = torch.randint(0, 256, (32, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def expected(pixels):
        return model(normalise(pixels, info.preprocessing))

    plain = int8.quantized(openvino_model(graph), images)
    _, in_float = smaller(openvino_model(graph), images, expected)
    mixed = int8.quantized(openvino_model(graph), images, in_float=in_float)
    assert in_float and len(in_float) <= 2
    assert int8._error(plain, images, expected(images)) > int8.MAX_ERROR > int8._error(mixed, images, expected(images))
    with torch.no_grad():
        block.norm2.weight[0] = 1.0
    nn.init.normal_(block.channel_mixer.fc1.weight, std=0.02)
    to_openvino(model, info, graph, text, num_images=None)
    assert smaller(openvino_model(graph), images, expected)[1] == []


@pytest.mark.slow
@pytest.mark.parametrize("num_images", [1, 3])
def test_a_file_for_a_fixed_number_of_images_is_quantised_and_judged(tmp_path, num_images):
    pytest.importorskip("nncf")
    photos = folder_of_images(tmp_path / "photos")
    options = {"source": str(photos), "int8": True, "max_drop": 99.0, "num_images": num_images}
    made = export_model(small("mixer"), "openvino", tmp_path / "m.xml", **options)
    assert made.gate is not None and made.gate.n > 0 and made.gate.images_per_s > 0
    assert mx.load(tmp_path / "m.xml").num_images == num_images
