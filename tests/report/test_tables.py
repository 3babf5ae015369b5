"""Tables for a terminal."""

from mixonomy.report.tables import class_table


def test_one_label_per_image_has_precision_recall_and_f1_in_columns():
    rows = [
        {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "n": 1234},
        {"precision": None, "recall": 0.0, "f1": 0.0, "n": 7},
    ]
    lines = class_table(("a long class name", "b"), rows).splitlines()
    assert [line.split() for line in lines] == [
        ["class", "precision", "recall", "f1", "n"],
        ["a", "long", "class", "name", "0.500", "1.000", "0.667", "1,234"],
        ["b", "-", "0.000", "0.000", "7"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_several_labels_add_average_precision_and_threshold():
    row = {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "ap": None, "threshold": 0.25, "n": 0}
    head, line = class_table(("a",), [row]).splitlines()
    assert head.split() == ["class", "ap", "threshold", "precision", "recall", "f1", "n"]
    assert line.split() == ["a", "-", "0.250", "0.500", "1.000", "0.667", "0"] and len(head) == len(line)
