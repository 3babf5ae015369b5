"""What the page is told: the region that mattered, the units of token mixing, and what a shuffle does."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from serving import encoded, exported_model, running, tiny_model

import mixonomy as mx
from mixonomy.evals.predictor import normalise
from mixonomy.models import info_of
from mixonomy.predicting import predictor_of
from mixonomy.preprocessing import PAD_VALUE
from mixonomy.serve.explain import grid_of, partial_permutation, windows
from mixonomy.serve.images import prepared

IMAGE = encoded()


@pytest.fixture(scope="module")
def client():
    with running() as found:
        yield found[0]


def picture(uri: str) -> torch.Tensor:
    """uint8 [3, H, W] of a data URI."""
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def probs(classes) -> torch.Tensor:
    return torch.tensor([each["prob"] for each in sorted(classes, key=lambda each: each["name"])])


def test_occlusion_is_the_fall_of_the_probability_where_the_image_is_greyed(client):
    found = client.post("/v1/occlusion", content=IMAGE).raise_for_status().json()
    model = tiny_model()
    predictor, seen = predictor_of(model, "cpu"), prepared(IMAGE, info_of(model).preprocessing, max_pixels=10**6)
    assert torch.equal(picture(found["seen"]), seen)
    plain = predictor(seen[None])[0]
    assert found["prob"] == pytest.approx(float(plain.max()), abs=1e-4)
    assert (found["rows"], found["columns"]) == (4, 3) and len(found["drops"]) == 12
    grey = seen.clone()
    grey[:, 4:20, 4:20] = PAD_VALUE  # row 1, column 1 of patches of 8, and half a patch around it
    expected = plain.max() - predictor(grey[None])[0, plain.argmax()]
    assert found["drops"][1 * 3 + 1] == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize(("size", "patch"), [((224, 224), 16), ((8, 8), 2), ((17, 5), 1), ((3, 100), 1), ((1, 1), 1)])
def test_windows_cover_the_whole_image(size, patch):
    rows, columns, places = windows(size, patch)
    covered = torch.zeros(size, dtype=torch.int)
    for down, across in places:
        assert down.stop > down.start and across.stop > across.start
        covered[down, across] += 1
    assert len(places) == rows * columns <= 100 and covered.min() >= 1


def test_token_units_are_the_busiest_of_the_block(client):
    found = client.post("/v1/token-units?block=1", content=IMAGE).raise_for_status().json()
    model = tiny_model()
    hidden = []
    model.blocks[1].token_mixer.act.register_forward_hook(lambda _, inputs, output: hidden.append(output))
    seen = prepared(IMAGE, info_of(model).preprocessing, max_pixels=10**6)
    with torch.no_grad():
        model(normalise(seen[None], info_of(model).preprocessing))
    strength = hidden[0].abs().mean(1)  # [D, C] of the one image -> [D]
    assert [unit["index"] for unit in found["units"]] == strength.argsort(descending=True).tolist()
    assert found["units"][0]["strength"] == 1.0 and (found["rows"], found["columns"]) == (4, 3)
    weight = model.blocks[1].token_mixer.fc1.weight[found["units"][0]["index"]].detach().reshape(4, 3)
    torch.testing.assert_close(torch.tensor(found["units"][0]["reads"]), weight / weight.abs().max(), atol=1e-3, rtol=0)


def test_a_block_that_is_not_there_is_refused(client):
    answer = client.post("/v1/token-units?block=2", content=IMAGE)
    assert answer.status_code == 422 and "2 blocks" in answer.json()["error"]


@pytest.mark.parametrize("query", ["", "patches=1&seed=3", "pixels=1", "patches=0.5&pixels=0.7&seed=9"])
def test_the_converted_model_does_not_notice_a_shuffle_and_the_original_does(query, client):
    plain = probs(client.post("/v1/predict", content=IMAGE).json()["predictions"][0]["classes"])
    found = client.post(f"/v1/shuffle?top=5&{query}", content=IMAGE).raise_for_status().json()
    torch.testing.assert_close(probs(found["converted"]), plain, atol=1e-4, rtol=0)
    assert torch.allclose(probs(found["original"]), plain, atol=1e-4) == (not query)
    seen = prepared(IMAGE, info_of(tiny_model()).preprocessing, max_pixels=10**6)
    shown = picture(found["seen"])
    assert torch.equal(shown.flatten(1).sort().values, seen.flatten(1).sort().values)  # the same pixels
    assert torch.equal(shown, seen) == (not query)


@pytest.mark.parametrize("query", ["patches=1.1", "patches=-0.1", "pixels=nan", "seed=-1", "seed=100000", "top=11"])
def test_bad_parameters_of_a_shuffle_are_refused(query, client):
    assert client.post(f"/v1/shuffle?{query}", content=IMAGE).status_code == 422


@pytest.mark.parametrize("route", ["occlusion", "token-units", "shuffle"])
def test_explanations_take_one_image_that_can_be_read(route, client):
    assert client.post(f"/v1/{route}", content=b"text").status_code == 415
    assert client.post(f"/v1/{route}", files=[("a", IMAGE), ("b", IMAGE)]).status_code == 413


def test_a_model_without_token_mlps_is_explained_as_far_as_it_can_be():
    model = mx.create(
        "convmixer", image_size=16, num_classes=3, hidden_dim=8, num_blocks=1, patch_size=4, kernel_size=3
    )
    with running(model=model.eval()) as (client, _):
        about = client.get("/v1/model").json()
        assert (about["can_be_permuted"], about["num_token_mlps"]) == (False, 0)
        assert client.post("/v1/occlusion", content=IMAGE).status_code == 200
        assert client.post("/v1/token-units", content=IMAGE).status_code == 422
        assert client.post("/v1/shuffle?patches=1", content=IMAGE).json()["converted"] is None


def test_a_part_of_a_permutation_grows():
    orders = [partial_permutation(100, share, seed=1) for share in (0.0, 0.2, 0.6, 1.0)]
    moved = [{i for i, j in enumerate(order.tolist()) if i != j} for order in orders]
    assert moved[0] == set() and all(len(few) <= share for few, share in zip(moved, (0, 20, 60, 100), strict=True))
    assert len(moved[3]) > 90 and all(sorted(order.tolist()) == list(range(100)) for order in orders)
    places = [set(torch.randperm(100, generator=torch.Generator().manual_seed(1))[:n].tolist()) for n in (20, 60)]
    assert places[0] < places[1] and moved[1] <= places[0] and moved[2] <= places[1]


def test_models_without_patches_get_squares_that_divide_the_image():
    assert grid_of(torch.nn.Identity(), (224, 224)) == (14, 14, 16)
    assert grid_of(torch.nn.Identity(), (30, 45)) == (30, 45, 1)
    assert grid_of(tiny_model(), (32, 24)) == (4, 3, 8)


def test_an_exported_file_has_the_patches_of_the_model_it_came_from(tmp_path):
    assert grid_of(exported_model(tmp_path), (32, 24)) == grid_of(tiny_model(), (32, 24)) == (4, 3, 8)
