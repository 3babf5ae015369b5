"""The page of a study, and the same tables in Markdown and for a terminal."""

import pytest
from report_page import Page

from mixonomy.report.charts import Chart, Line, chart_svg
from mixonomy.report.study_page import (
    Figure,
    Found,
    Table,
    markdown,
    origins,
    study_page,
    terminal_lines,
    write_study_page,
)

TABLE = Table("Scores", ("model", "top-1, %"), (("a|b", "81.20"), ("c <i>", "–")), note="Of three seeds.")
FOUND = Found(
    "A study of <things>",
    ("First.", "Second."),
    (Figure("one", chart_svg(Chart("points", "x", "y", (Line("a", ((0, 1.0, None),)),))), "A caption."),),
    (TABLE,),
)
ROW = {"device": "a CPU", "commit": "abc", "command": "mixonomy study x", "date": "2026-01-31"}


@pytest.fixture
def page(tmp_path):
    write_study_page(tmp_path / "page.html", FOUND, [ROW, {**ROW, "commit": "def"}])
    return Page(tmp_path / "page.html")


def test_a_page_has_everything_and_loads_nothing(page):
    assert {"First.", "Second.", "A caption.", "Of three seeds.", "Scores"} <= set(page.words)
    assert ["a|b", "81.20"] in page.rows and ["c <i>", "–"] in page.rows and ["commit", "abc; def"] in page.rows
    assert not [attrs for tag, attrs in page.tags if tag in ("script", "img") or attrs.get("src")]
    assert "default-src 'none'" in page.source and "A study of &lt;things&gt;" in page.source


def test_tables_in_markdown_and_on_a_terminal():
    assert markdown(TABLE) == (
        "| model | top-1, % |\n| --- | --: |\n| a\\|b | 81.20 |\n| c <i> | – |\n\nOf three seeds."
    )
    assert markdown(Table("None", ("a",), ())) == "No rows yet."
    lines = list(terminal_lines(FOUND))
    assert lines[:3] == ["Scores", "model  top-1, %", "a|b       81.20"] and lines[-2:] == ["First.", "Second."]


def test_nothing_is_said_of_where_no_rows_come_from():
    assert origins([]) == []


def test_last_columns_may_be_text():
    table = Table(
        "Where", ("model", "top-1, %", "how"), (("a", "81.20", "by train"), ("b", "7.00", "by")), num_last_texts=1
    )
    assert markdown(table).splitlines()[1] == "| --- | --: | --- |"
    assert list(terminal_lines(Found("A study", (), (), (table,))))[1:4] == [
        "model  top-1, %  how", "a         81.20  by train", "b          7.00  by",
    ]  # fmt: skip
    assert '<td class="number">81.20</td><td>by train</td>' in study_page(Found("A study", (), (), (table,))).decode()


def test_nothing_is_cut_in_a_terminal():
    long = "mixonomy train --recipe jft --model mixer-s/16 --data FOLDER"
    table = Table("Where", ("model", "top-1, %", "how"), (("a", "81.20", long), ("b", "7.00", "")), num_last_texts=1)
    assert list(terminal_lines(Found("A study", (), (), (table,))))[1:6] == [
        "model  top-1, %", "    how", "a         81.20", f"    {long}", "b          7.00",
    ]  # fmt: skip


def test_sentences_stand_below_what_they_are_of():
    found = Found("A study", ("Take a.", "Surely.", "Take <b>."), topics=("cats", "cats", "dogs"))
    page = study_page(found).decode()
    assert "<li>cats: Take a.</li><li>dogs: Take &lt;b&gt;.</li>" in page, "the first of each is the headline"
    assert '<h3>cats</h3><ul class="advice"><li>Surely.</li></ul>' in page and "<h3>dogs" not in page
    assert list(terminal_lines(found)) == ["cats:", "  Take a.", "  Surely.", "dogs:", "  Take <b>."]
    assert found.sentences() == ["cats: Take a.", "cats: Surely.", "dogs: Take <b>."]
