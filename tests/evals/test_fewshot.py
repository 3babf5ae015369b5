"""Few-shot accuracy: which images are drawn, and the scores of what is fitted to them."""

import statistics

import numpy as np
import pytest
import torch

from mixonomy.data import Split
from mixonomy.evals import Features, FewShot, RidgeProbe, draw_support, few_shot, top1


def split_of(counts: list[int]) -> Split:
    labels = np.repeat(np.arange(len(counts)), counts)
    return Split(np.zeros((len(labels), 2, 2), np.uint8), labels, [f"image {i}" for i in range(len(labels))])


def test_support_has_as_many_images_of_each_class_as_asked_for_and_differs_by_seed():
    split = split_of([30, 40, 50])
    draws = [draw_support(split, 10, seed) for seed in range(3)]
    for drawn in draws:
        assert np.bincount(split.labels[drawn]).tolist() == [10, 10, 10]
        assert len(set(drawn.tolist())) == 30 and drawn.tolist() == sorted(drawn.tolist())
    assert len({tuple(drawn) for drawn in draws}) == 3
    assert np.array_equal(draw_support(split, 10, 0), draws[0])


def test_support_does_not_depend_on_the_order_of_the_images_and_grows_with_the_shots():
    split = split_of([30, 40, 50])
    order = np.random.default_rng(0).permutation(len(split))
    names = {split.names[i] for i in draw_support(split, 5, 1)}
    turned = split.pick(order)
    assert {turned.names[i] for i in draw_support(turned, 5, 1)} == names
    assert names < {split.names[i] for i in draw_support(split, 6, 1)}


def test_every_image_is_drawn_equally_often():
    split = split_of([10])
    counts = np.zeros(10)
    for seed in range(400):
        counts[draw_support(split, 3, seed)] += 1
    assert counts.sum() == 1200 and abs(counts - 120).max() < 40  # four deviations of a binomial


def test_small_classes_give_all_they_have():
    split = split_of([2, 9, 0, 5])
    assert np.bincount(split.labels[draw_support(split, 5, 0)], minlength=4).tolist() == [2, 5, 0, 5]


def features(seed: int, n: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    values = torch.randn(n, 4, generator=generator) + labels[:, None].float()
    return Features(values, labels, torch.arange(n))


def test_scores_are_those_of_a_ridge_probe_on_each_draw():
    train, test = features(0, 60), features(1, 90)
    split = Split(np.zeros((60, 2, 2), np.uint8), train.labels.numpy(), [str(i) for i in range(60)])
    found = list(few_shot(split, train, test, 3, shots=(1, 30), num_seeds=4))
    for few in found:
        for seed, value in enumerate(few.top1):
            drawn = torch.from_numpy(draw_support(split, few.shots, seed))
            probe = RidgeProbe.fit(train.values[drawn], train.labels[drawn], 3)
            assert value == top1(probe, test)
    assert [(few.shots, few.num_support, few.num_short) for few in found] == [(1, 3, 0), (30, 60, 3)]
    assert len(set(found[0].top1)) > 1 and len(found[1].top1) == 1, "there is one draw of all images"


def test_scores_are_named_pairs_of_mean_spread_and_seeds():
    few = FewShot(5, (0.25, 0.5), 15, 0)
    assert list(few.scores()) == [
        ("5shot", 0.375),
        ("5shot_std", pytest.approx(statistics.stdev((0.25, 0.5)))),
        ("5shot_seed0", 0.25),
        ("5shot_seed1", 0.5),
    ]
    assert FewShot(5, (0.25,), 15, 0).std is None


def test_image_without_features_is_missing_from_the_support():
    train, test = features(0, 60), features(1, 30)
    split = Split(np.zeros((60, 2, 2), np.uint8), train.labels.numpy(), [str(i) for i in range(60)])
    first = int(draw_support(split, 2, 0)[0])
    readable = train.pick(torch.tensor([i for i in range(60) if i != first]))
    (few,) = few_shot(split, readable, test, 3, shots=(2,), num_seeds=1)
    assert (few.num_support, few.num_short) == (5, 0)
