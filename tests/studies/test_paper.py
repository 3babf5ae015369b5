"""The paper's numbers beside ours."""

import json

import pytest

from mixonomy.cli import main
from mixonomy.rows import Origin, append, make_row, read
from mixonomy.studies.paper import _agrees, entries, found_of, results_folder


@pytest.fixture(scope="module")
def found():
    return entries(results_folder())


def one(found, table, model, data, metric):
    (entry,) = [e for e in found if (e.table, e.model, e.data, e.metric) == (table, model, data, metric)]
    return entry


def test_sizes_and_hyper_parameters_are_those_of_the_paper(found):
    checked = [entry for entry in found if entry.table in ("table 1", "table 4")]
    assert len(checked) == 7 + 4 * 7 + 4 * 3
    assert [entry for entry in checked if not _agrees(entry)] == []


def test_tables_have_all_their_lines(found):
    lines = {table: len({(e.model, e.data) for e in found if e.table == table}) for table in ("table 2", "table 3")}
    assert lines == {"table 2": 10, "table 3": 26}
    assert one(found, "table 2", "mixer-h/14", "JFT-300M, fine-tuned at 448", "imagenet_top1").published == 0.8794


def test_what_was_not_run_says_what_it_takes(found):
    for entry in found:
        assert entry.ours is not None or (entry.needs and entry.command.startswith("mixonomy ")), entry
    own = one(found, "table 3", "mixer-b/16", "ImageNet-1k, 300 epochs, fine-tuned at 224", "imagenet_top1")
    assert own.command == "mixonomy eval timm:mixer_b16_224.goog_in21k_ft_in1k --data imagenet1k"
    private = one(found, "table 3", "mixer-s/16", "JFT-300M, 5 epochs, fine-tuned at 224", "imagenet_top1")
    assert "private" in private.needs and private.command.startswith("mixonomy train --recipe jft --model mixer-s/16")
    other = one(found, "table 2", "ALIGN (EffNet-L2)", "web images with text", "imagenet_top1")
    assert "no command" in other.needs and "its nearest" not in other.needs
    assert other.command.startswith("mixonomy train --recipe jft --model timm:efficientnet_l2")


@pytest.mark.slow
def test_commands_name_models_that_are_there(found):
    import timm

    names = {word.strip(",") for entry in found for word in entry.command.split() if word.startswith("timm:")}
    assert len(names) > 8 and all(timm.is_model(name.removeprefix("timm:").split(".")[0]) for name in names)


def test_ours_stands_beside_theirs_once_there_is_a_row(tmp_path):
    published = read(results_folder() / "published.jsonl")
    append(tmp_path / "published.jsonl", published)
    row = make_row(
        Origin("8 GPUs", None, "mixonomy train --data imagenet1k", "2026-01-01"),
        study="recipe", model="mixer-b/16, 300 epochs", data="imagenet1k", metric="top1", value=0.76, unit="share",
    )  # fmt: skip
    append(tmp_path / "recipes.jsonl", [row])
    found = entries(tmp_path)
    where = ("table 3", "mixer-b/16", "ImageNet-1k, 300 epochs, fine-tuned at 224", "imagenet_top1")
    assert one(found, *where).ours == 0.76 and one(found, *where).command == "mixonomy train --data imagenet1k"
    other = one(found, "table 3", "mixer-b/16", "JFT-300M, 7 epochs, fine-tuned at 224", "imagenet_top1")
    assert other.ours is None, "trained on other data"
    assert "none yet" in [line[2] for line in found_of(found, tmp_path).tables[-1].lines]


def written(folder, *rows):
    append(folder / "published.jsonl", read(results_folder() / "published.jsonl"))
    append(folder / "ours.jsonl", rows)
    return entries(folder)


def ours(study, model, data, metric, value, *, seed=None, date="2026-01-01"):
    origin = Origin("a CPU, 2 of 2 cores, torch 2", None, f"mixonomy study {study}", date)
    return make_row(
        origin, study=study, model=model, data=data, metric=metric, value=value, unit="", seed=seed
    )  # fmt: skip


def test_speed_is_of_our_float_path_on_as_many_pixels_for_one_core_at_its_best_batch_size(tmp_path):
    at, metric = "random 224 x 224, batch 8", "images_per_s"
    found = written(
        tmp_path,
        ours("infer", "mixer-b/16: ours", at, metric, 30.0, date="2026-01-02"),
        ours("infer", "mixer-b/16: ours", at, metric, 40.0),
        ours("infer", "mixer-b/16: ours", "random 224 x 224, batch 1", metric, 20.0, date="2026-01-03"),
        ours("infer", "mixer-b/16: ours int8", at, metric, 90.0, date="2026-01-03"),
        ours("infer", "mixer-l/16: ours", "random 448 x 448, batch 8", metric, 2.0),
    )
    where = "JFT-300M, 7 epochs, fine-tuned at 224"
    base = one(found, "table 3", "mixer-b/16", where, "images_per_s_core")
    assert base.ours == 15.0 and base.ours_from == (
        "mixer-b/16: ours, random 224 x 224, batch 8, a CPU, 2 of 2 cores, torch 2, divided by its 2 cores"
    )
    assert one(found, "table 3", "mixer-l/16", where, "images_per_s_core").ours is None
    large = one(found, "table 3", "mixer-l/16", "JFT-300M, 14 epochs, fine-tuned at 448", "images_per_s_core")
    assert large.ours == 1.0


def test_accuracy_is_the_mean_over_seeds_of_a_training_as_long(tmp_path):
    long = [ours("recipe", "mixer-b/16, 300 epochs", "imagenet1k", "top1", 0.75 + 0.02 * s, seed=s) for s in (0, 1)]
    short = ours("recipe", "mixer-b/16, 90 epochs", "imagenet1k", "top1", 0.60, date="2026-02-01")
    found = written(tmp_path, *long, short)
    entry = one(found, "table 3", "mixer-b/16", "ImageNet-1k, 300 epochs, fine-tuned at 224", "imagenet_top1")
    assert entry.ours == pytest.approx(0.76) and "n = 2" in entry.ours_from


def test_few_shot_loss_is_that_of_the_study_of_permutations(tmp_path):
    scores = {("Mixer", "original"): 0.20, ("Mixer", "global"): 0.15, ("ResNet", "original"): 0.20}
    rows = [ours("permutation", m, f"cifar10, {p}", "few_shot", v, seed=0) for (m, p), v in scores.items()]
    found = written(tmp_path, *rows)
    mixer = one(found, "figure 4", "mixer-b/16", "JFT-300M, all pixels shuffled", "few_shot_loss")
    assert mixer.ours == pytest.approx(0.25) and "trained on cifar10" in mixer.ours_from
    assert one(found, "figure 4", "BiT-R50x1", "JFT-300M, all pixels shuffled", "few_shot_loss").ours is None


def test_command_prints_tables_and_json(tmp_path, capsys):
    assert main(["study", "paper", "--out", str(tmp_path / "paper.html"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out.splitlines()[-1])["entries"]) == 222
    assert "Table 3 of the paper" in err and (tmp_path / "paper.html").is_file()
    assert main(["study", "paper", "--results", str(tmp_path)]) == 1
    assert "published.jsonl" in capsys.readouterr().err
