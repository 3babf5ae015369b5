"""Logistic regression and nearest neighbours on features, beside scikit-learn's and a plain loop.

Axes: N images, C channels of the features, K classes.
"""

import pytest
import torch

from mixonomy.evals import KNN, Features, LinearProbe, linear_probe, top1
from mixonomy.evals.features import joined


def blobs(n: int, dim: int = 6, k: int = 3, seed: int = 0, spread: float = 1.0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(k, dim, generator=torch.Generator().manual_seed(9)) * 2
    labels = torch.randint(k, (n,), generator=generator)
    return Features(centres[labels] + torch.randn(n, dim, generator=generator) * spread + 3.0, labels, torch.arange(n))


@pytest.mark.slow
@pytest.mark.parametrize("l2", [1.0, 1e-3])
def test_logistic_regression_is_scikit_learns(l2):
    from sklearn.linear_model import LogisticRegression

    data = blobs(120)
    x = data.values.double()
    x = (x - x.mean(0)) / (x.std(0, correction=0) + 1e-5)
    theirs = LogisticRegression(C=1 / (len(data) * l2), tol=1e-10, max_iter=10_000).fit(x.numpy(), data.labels.numpy())
    ours = LinearProbe.fit(data.values, data.labels, 3, l2)
    torch.testing.assert_close(ours.weight, torch.from_numpy(theirs.coef_.T.copy()), rtol=0, atol=1e-4)
    probs = torch.from_numpy(theirs.predict_proba(x.numpy()))
    torch.testing.assert_close(ours.scores(data.values).softmax(1), probs, rtol=0, atol=1e-5)


def test_l2_is_chosen_on_held_out_images_and_the_last_fit_uses_them_too():
    train, held_out, test = blobs(30, seed=1, spread=3), blobs(40, seed=2, spread=3), blobs(200, seed=3, spread=3)
    grid = (100.0, 1.0, 1e-2, 1e-4)
    found = linear_probe(train, held_out, test, 3, grid)
    on_val = {l2: top1(LinearProbe.fit(train.values, train.labels, 3, l2), held_out) for l2 in grid}
    assert len(set(on_val.values())) > 1, "the choice matters"
    assert found.val_top1 == max(on_val.values()) and found.l2 == max(on_val, key=on_val.__getitem__)
    both = joined(train, held_out)
    assert found.top1 == top1(LinearProbe.fit(both.values, both.labels, 3, found.l2), test)
    assert found.num_train == 70
    assert dict(found.scores()) == {"top1": found.top1, "l2": found.l2, "val_top1": found.val_top1}


def test_test_images_choose_nothing():
    train, held_out, test = blobs(30, seed=1, spread=3), blobs(40, seed=2, spread=3), blobs(50, seed=3, spread=3)
    turned = Features(test.values, (test.labels + 1) % 3, test.indices)
    found, other = (linear_probe(train, held_out, each, 3, (10.0, 1e-3)) for each in (test, turned))
    assert (found.l2, found.val_top1) == (other.l2, other.val_top1) and found.top1 != other.top1


def test_neighbours_vote_by_the_exponential_of_their_cosine():
    bank, queries = blobs(30), blobs(7, seed=4)
    probe = KNN.fit(bank.values, bank.labels, 3, num_neighbours=5, temperature=0.1)
    expected = torch.zeros(7, 3)
    for i, query in enumerate(queries.values):
        cosines = torch.nn.functional.cosine_similarity(query[None], bank.values)
        for j in cosines.argsort(descending=True)[:5]:
            expected[i, bank.labels[j]] += (cosines[j] / 0.1).exp()
    expected /= expected.sum(1, keepdim=True)
    torch.testing.assert_close(probe.scores(queries.values), expected, rtol=1e-4, atol=1e-6)


def test_nearest_of_all_is_the_image_itself():
    bank = blobs(40, spread=5)
    assert top1(KNN.fit(bank.values, bank.labels, 3, num_neighbours=1), bank) == 1.0
    assert KNN.fit(bank.values, bank.labels, 3, num_neighbours=100).num_neighbours == 40


def test_probes_say_what_is_wrong():
    data = blobs(10)
    with pytest.raises(ValueError, match="num_neighbours is 0 and temperature 0.07; give at least 1"):
        KNN.fit(data.values, data.labels, 3, num_neighbours=0)
    with pytest.raises(ValueError, match="l2 is -1.0; give more than 0."):
        LinearProbe.fit(data.values, data.labels, 3, -1.0)
    with pytest.raises(ValueError, match="labels are from 0 to 2 and there are 2 classes"):
        KNN.fit(data.values, data.labels, 2)
