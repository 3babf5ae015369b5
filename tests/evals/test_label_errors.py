"""Confident learning: against its definition written out, on planted errors, and in the results that are stored."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mixonomy as mx
from mixonomy.data import open_source, plan_splits
from mixonomy.evals import Classification, LabelCheck, MultiLabel, Suspect, multilabel_suspects
from mixonomy.evals import label_errors as module
from mixonomy.evals.label_errors import MIN_PROB, NUM_LISTED
from mixonomy.recipe import changed
from mixonomy.recipes import load_recipe


def check(probs: np.ndarray, labels: np.ndarray, batch: int = 1000) -> LabelCheck:
    result = LabelCheck(probs.shape[1])
    for start in range(0, len(labels), batch):
        part = slice(start, start + batch)
        result.add(probs[part], labels[part], range(start, start + len(labels[part])))
    return result


def written_out(probs: np.ndarray, labels: np.ndarray) -> set[tuple[int, int]]:
    """(image, suggested class) by the paper's equations 1 and 2, image by image, and the two conditions beyond it."""
    found = set()
    num_classes = probs.shape[1]
    t = [probs[labels == k, k].mean() if (labels == k).any() else np.inf for k in range(num_classes)]
    for n, (p, given_label) in enumerate(zip(probs, labels, strict=True)):
        confident = [k for k in range(num_classes) if p[k] >= t[k]]
        if not confident:
            continue
        best = max(confident, key=lambda k: p[k])
        if best != given_label and p[best] > p[given_label] and p[best] >= MIN_PROB:
            found.add((n, best))
    return found


@given(st.integers(0, 10**6), st.integers(2, 14), st.integers(1, 60))
def test_suspects_are_the_off_diagonal_of_the_confident_joint(seed, num_classes, n):
    rng = np.random.default_rng(seed)
    probs, labels = rng.dirichlet(np.full(num_classes, 0.3), n), rng.integers(0, num_classes, n)
    suspects = check(probs, labels).suspects()
    assert {(s.index, s.suggested) for s in suspects} == written_out(probs, labels)
    margins = [s.prob - s.label_prob for s in suspects]
    assert margins == sorted(margins, reverse=True)
    assert all(s.label == labels[s.index] and s.prob == probs[s.index, s.suggested] for s in suspects)


def test_an_example_by_hand():
    # Thresholds: class 0 (0.9 + 0.7 + 0.1) / 3 = 0.567, class 1 (0.8 + 0.6) / 2 = 0.7.
    probs = np.array([[0.9, 0.1], [0.7, 0.3], [0.1, 0.9], [0.2, 0.8], [0.4, 0.6]])
    result = check(probs, np.array([0, 0, 0, 1, 1]))
    assert result.thresholds() == pytest.approx([1.7 / 3, 0.7])
    assert result.suspects() == [Suspect(index=2, label=0, suggested=1, prob=0.9, label_prob=0.1)]


def test_a_class_that_is_usually_unsure_needs_less_to_be_suggested():
    probs = np.array([[0.95, 0.05], [0.96, 0.04], [0.52, 0.48], [0.48, 0.52], [0.42, 0.58]])
    labels = np.array([0, 0, 1, 1, 0])  # class 1: mean of 0.48 and 0.52; class 0: (0.95 + 0.96 + 0.42) / 3 = 0.777
    suspects = check(probs, labels).suspects()
    assert [(s.index, s.suggested) for s in suspects] == [(4, 1)]  # not image 2, for which 0.52 is less than usual


def test_batches_make_no_difference():
    rng = np.random.default_rng(1)
    probs, labels = rng.dirichlet(np.full(5, 0.3), 90), rng.integers(0, 5, 90)
    assert check(probs, labels, batch=7).suspects() == check(probs, labels).suspects()


def test_a_class_without_images_is_never_suggested():
    probs = np.array([[0.1, 0.9], [0.6, 0.4]])
    assert check(probs, np.array([0, 0])).suspects() == []


def test_nothing_scored_has_no_suspects():
    assert LabelCheck(3).to_dict() == {"found": 0, "listed": []}


def test_planted_errors_are_found_where_the_model_knows_the_classes():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 10, 2000)
    logits = rng.normal(size=(2000, 10)) + 6 * np.eye(10)[true]
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = true.copy()
    planted = rng.choice(2000, 100, replace=False)
    labels[planted] = (true[planted] + rng.integers(1, 10, 100)) % 10
    found = {s.index for s in check(probs, labels).suspects()}
    right = len(found & set(planted.tolist()))
    assert right / len(planted) > 0.8 and right / len(found) > 0.9


def test_several_labels_are_checked_class_by_class():
    rng = np.random.default_rng(0)
    labels = rng.random((300, 3)) < 0.4
    probs = np.where(labels, 0.9, 0.1)
    for place in ((5, 1), (9, 2)):
        probs[place] = 0.95 if labels[place] else 0.05  # surer than usual
        labels[place] = ~labels[place]
    found = multilabel_suspects(probs, labels, np.arange(300) + 1000)
    at = {(row["index"], row["class"]): row for row in found}
    assert set(at) == {(1005, 1), (1009, 2)}
    for (index, k), row in at.items():
        assert row["is_label"] == labels[index - 1000, k] and row["prob"] == probs[index - 1000, k]
        assert row["label"] == np.flatnonzero(labels[index - 1000]).tolist()


def test_with_two_exclusive_classes_both_forms_suspect_the_same_images():
    rng = np.random.default_rng(2)
    p, y = rng.random(200), rng.integers(0, 2, 200)
    one = check(np.stack([1 - p, p], 1), y).suspects()
    several = multilabel_suspects(p[:, None], y.astype(bool)[:, None], np.arange(200))
    assert [s.index for s in one] == [row["index"] for row in several] and one


def test_scores_store_how_many_were_found_and_list_the_first():
    n = 2 * NUM_LISTED + 5
    probs = torch.tensor([[0.95, 0.05]] * n + [[0.02, 0.98]] * n, dtype=torch.float64)
    labels = torch.cat([torch.zeros(n, dtype=torch.int64), torch.ones(n, dtype=torch.int64)])
    labels[: NUM_LISTED + 3] = 1  # wrong
    probs[: NUM_LISTED + 3] = torch.tensor([0.97, 0.03], dtype=torch.float64)
    scored = Classification(2)
    scored.add(probs, labels, torch.arange(2 * n) + 7)
    errors = scored.to_dict()["label_errors"]
    assert errors["found"] == NUM_LISTED + 3 and len(errors["listed"]) == NUM_LISTED
    assert errors["listed"][0] == {"index": 7, "label": 1, "suggested": 0, "prob": 0.97, "label_prob": 0.03}


def test_several_labels_store_the_place_in_the_split():
    scored = MultiLabel(1)
    probs = torch.tensor([[0.9], [0.95], [0.05], [0.99]], dtype=torch.float64)
    scored.add(probs, torch.tensor([[True], [True], [False], [False]]), torch.tensor([3, 4, 8, 9]))
    (listed,) = scored.to_dict()["label_errors"]["listed"]
    assert (listed["index"], listed["class"], listed["is_label"]) == (9, 0, False)


@pytest.mark.slow
def test_planted_errors_are_found_by_a_model_that_was_trained_on_such_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "NUM_LISTED", 10_000)
    source = _digits_with_wrong_labels(tmp_path, share=0.05)
    model = {"hidden_dim": 32, "num_blocks": 2, "tokens_mlp_dim": 16, "channels_mlp_dim": 64}
    run = mx.train(changed(load_recipe("digits"), model=model, data={"source": str(source)}), tmp_path / "run")
    test = json.loads((run.path / "test.json").read_text())
    found = {Path(one["name"]).stem for one in test["label_errors"]["listed"]}
    found |= {Path(one["name"]).stem for one in test["val_label_errors"]["listed"]}
    plan = plan_splits(open_source(str(source)), 0.1)
    assert plan.val is not None
    held_out = {Path(name).stem for split in (plan.test, plan.val) for name in split.names}
    wrong = {name for name in held_out if name.endswith("w")}
    right = len(found & wrong)
    assert len(wrong) > 20
    assert right / len(found) > 0.65 and right / len(wrong) > 0.55


def _digits_with_wrong_labels(folder: Path, *, share: float) -> Path:
    """A CSV of the digits; the files of images with a wrong label end in "w"."""
    rng, rows = np.random.default_rng(0), ["path,label,split"]
    for split, samples in open_source("digits").splits.items():
        for i, label in enumerate(samples.labels.tolist()):
            is_wrong = rng.random() < share
            name = f"{split}{i:04d}{'w' if is_wrong else ''}.png"
            (folder / name).write_bytes(bytes(samples.images[i]))
            rows.append(f"{name},{(label + rng.integers(1, 10)) % 10 if is_wrong else label},{split}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder / "labels.csv"
