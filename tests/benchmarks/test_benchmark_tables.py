"""Generated tables: written from rows between markers, and up to date in this repository."""

import sys
from xml.etree import ElementTree

import pytest

import figures
import rows
import tables
import taxonomy
from rows import Origin, make_row

WHERE = Origin("a CPU", "abc", "python benchmarks/recipes.py cifar10", "2026-01-31")
LATER = Origin("a CPU", "def", "python benchmarks/recipes.py cifar10", "2026-02-01")
TEXT = "# Title\n\n<!-- generated: recipes -->\nold\n<!-- /generated -->\n\nafter\n"


def summary(where, top1):
    about = {"study": "recipe", "model": "mixer P=4, 14 epochs", "data": "cifar10", "n": 3}
    numbers = {"top1": (top1, 0.002), "seconds": (3600.0, 6.0), "images_per_s": (1234.0, 5.0), "params": (1132170, 0.0)}
    return [
        make_row(where, **about, metric=metric, value=value, unit="x", spread=spread)
        for metric, (value, spread) in numbers.items()
    ]


@pytest.fixture
def root(tmp_path):
    rows.append(tmp_path / "results" / "recipes.jsonl", [*summary(WHERE, 0.5), *summary(LATER, 0.9)])
    published = {**summary(WHERE, 0.9083)[0], "source": "somebody"}
    elsewhere = {**published, "data": "imagenet1k", "model": "mixer-b/16", "value": 0.7644, "source": "the paper"}
    rows.append(tmp_path / "results" / "published.jsonl", [published, elsewhere])
    (tmp_path / "README.md").write_text(TEXT)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "results.md").write_text("<!-- generated: train -->\n<!-- /generated -->")
    return tmp_path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["tables.py", *map(str, arguments)])
    return tables.main()


def test_tables_are_written_once_and_then_stay(root, monkeypatch):
    assert run(monkeypatch, "--root", root, "--check") == 1
    assert (root / "README.md").read_text() == TEXT, "--check writes nothing"
    assert run(monkeypatch, "--root", root) == 0
    text = (root / "README.md").read_text()
    assert text.startswith("# Title\n") and text.endswith("\n\nafter\n") and "old" not in text
    assert "No rows yet." in (root / "docs" / "results.md").read_text()
    assert run(monkeypatch, "--root", root, "--check") == 0


def test_a_recipe_has_one_line_with_its_newest_numbers_beside_the_published_ones(root):
    lines = tables.recipes(root / "results").splitlines()
    ours = [cell.strip() for cell in lines[2].strip("|").split(" | ")]
    assert ours == [
        "cifar10",
        "mixer P=4, 14 epochs",
        "1,132,170",
        "90.00 ± 0.20",
        "3",
        "60.0",
        "1,234",
        "90.83 (somebody)",
        "a CPU",
        "def",
    ]
    assert "| imagenet1k | mixer-b/16 | - | not run here |" in lines[3] and "76.44 (the paper)" in lines[3]
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<!-- generated: trian -->\n<!-- /generated -->", "unknown table 'trian'"),
        ("<!-- generated: train -->\n", "1 generated parts are opened and 0 are closed"),
        ("<!-- /generated -->\n<!-- generated: train -->", "opened"),
        ("<!-- generated: train -->\n<!-- generated: muon -->\n<!-- /generated -->", "2 generated parts"),
    ],
)
def test_wrong_markers_are_refused(root, monkeypatch, capsys, text, complaint):
    (root / "README.md").write_text(text)
    assert run(monkeypatch, "--root", root) == 2
    assert complaint in capsys.readouterr().err
    assert (root / "README.md").read_text() == text


def test_a_setting_without_a_number_keeps_its_line(tmp_path):
    about = {"study": "train", "model": "cifar: timm, bf16", "data": "random", "metric": "images_per_s"}
    row = make_row(WHERE, **about, value=None, unit="images/s", n=0, note="not done after 1200 s")
    rows.append(tmp_path / "train.jsonl", [row])
    assert "| cifar: timm, bf16 | random | - | - | - | - | - | 0 (not done after 1200 s) |" in tables.TABLES["train"](
        tmp_path
    )


def test_label_errors_have_precision_and_recall_where_there_is_something_to_divide_by(tmp_path):
    for data, (wrong, found, right) in {"5 % wrong": (20.0, 16.0, 12.0), "none wrong": (0.0, 0.0, 0.0)}.items():
        numbers = {"top1": 0.9, "wrong": wrong, "found": found, "right": right}
        about = {"study": "label_errors", "model": "mixer", "data": data, "unit": "x", "n": 3}
        rows.append(
            tmp_path / "label_errors.jsonl",
            [make_row(WHERE, **about, metric=metric, value=value) for metric, value in numbers.items()],
        )
    lines = tables.label_errors(tmp_path).splitlines()
    assert "| 5 % wrong | mixer | 90.00 | 20.0 | 16.0 | 12.0 | 0.75 | 0.60 | 3 |" in lines[2]
    assert "| none wrong | mixer | 90.00 | 0.0 | 0.0 | 0.0 | - | - | 3 |" in lines[3]


def taxonomy_rows(where, macs=(75, 25)):
    """Two kinds of layer of one model."""
    layers = zip(("stem: Conv2d", "blocks.* x 2: MLP"), ("both", "channels"), macs, strict=True)
    return [
        make_row(
            where,
            study="taxonomy",
            model=f"m/1: {layer}",
            data="8 x 8",
            metric=metric,
            value=value,
            unit="x",
            note=role,
        )
        for layer, role, value in layers
        for metric in ("parameters", "macs", "activation_bytes")
    ]


def test_the_taxonomy_divides_each_cost_by_role_in_the_newest_run(tmp_path):
    rows.append(tmp_path / "taxonomy.jsonl", [*taxonomy_rows(WHERE, (1, 1)), *taxonomy_rows(LATER)])
    split = "25.0 / 0.0 / 75.0 / 0.0"
    line = f"| m/1 | 8 x 8 | 0.0 | {split} | 0.0 | {split} | 0.0 | {split} | def |"
    assert tables.taxonomy(tmp_path).splitlines()[2:] == [line]


def test_the_table_of_layers_shows_one_model_of_each_family(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ARCHITECTURES", {"m/1": ("m/1", "m/2")})
    other = [{**row, "model": row["model"].replace("m/1", "m/2")} for row in taxonomy_rows(WHERE)]
    rows.append(tmp_path / "taxonomy.jsonl", [*other, *taxonomy_rows(WHERE)])
    assert tables.layers(tmp_path).splitlines()[2:] == [
        "| m/1 | `stem` | Conv2d | x | x | 75.0 | 75.0 | 75.0 |",
        "| m/1 | `blocks.* x 2` | MLP | x |  | 25.0 | 25.0 | 25.0 |",
    ]


def test_the_figure_is_written_where_there_are_rows_and_has_a_bar_per_cost_and_role(root, monkeypatch):
    run(monkeypatch, "--root", root)
    figure = root / "docs" / "taxonomy.svg"
    assert not figure.exists()
    rows.append(root / "results" / "taxonomy.jsonl", taxonomy_rows(WHERE))
    assert run(monkeypatch, "--root", root, "--check") == 1 and not figure.exists()
    assert run(monkeypatch, "--root", root) == 0 and run(monkeypatch, "--root", root, "--check") == 0
    svg = ElementTree.parse(figure)
    bars = [each for each in svg.iter("{http://www.w3.org/2000/svg}rect") if len(each)]
    widths = [(each.attrib["class"], float(each.attrib["width"])) for each in bars]
    assert widths == 3 * [("channels", 0.25 * figures.BAR), ("both", 0.75 * figures.BAR)]


@pytest.mark.slow
def test_stored_rows_of_the_taxonomy_are_what_the_study_finds_now():
    stored = taxonomy.newest_of(rows.read(rows.RESULTS / "taxonomy.jsonl"))
    assert list(stored) == list(taxonomy.MODELS), "every model has rows"
    now = taxonomy.newest_of(list(taxonomy.measure("mixer-s/32", WHERE)))["mixer-s/32"]
    facts = [(row.layer, row.kind, row.role, row.cost["parameters"], row.cost["macs"]) for row in now]
    assert facts == [(x.layer, x.kind, x.role, x.cost["parameters"], x.cost["macs"]) for x in stored["mixer-s/32"]]


def test_the_tables_of_this_repository_are_up_to_date(monkeypatch, capsys):
    assert run(monkeypatch, "--check") == 0, capsys.readouterr().out


def test_a_study_has_its_words_tables_and_figures_where_there_are_rows(root, monkeypatch):
    docs = root / "docs" / "studies.md"
    docs.write_text("<!-- generated: study_ablate -->\n<!-- /generated -->")
    assert run(monkeypatch, "--root", root) == 0 and "No rows yet." in docs.read_text()
    about = {"study": "ablate", "data": "digits", "metric": "top1", "unit": "share"}
    scores = [("base", 0, 0.5), ("base", 1, 0.52), ("Muon", 0, 0.6), ("Muon", 1, 0.63)]
    made = [make_row(WHERE, **about, model=model, value=value, seed=seed) for model, seed, value in scores]
    rows.append(root / "results" / "ablate.jsonl", made)
    assert run(monkeypatch, "--root", root) == 0 and run(monkeypatch, "--root", root, "--check") == 0
    text = docs.read_text()
    assert "| Muon | 61.50 ± 2.12 | +10.50 [+4.15, +16.85] | better |" in text and "](ablate.svg)" in text
    assert "a CPU" in text and "abc" in text
    titles = [
        each.text for each in ElementTree.parse(root / "docs" / "ablate.svg").iter("{http://www.w3.org/2000/svg}title")
    ]
    assert titles == 2 * ["Muon: +10.50 [+4.15, +16.85]"]
