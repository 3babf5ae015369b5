"""CSV files of paths and labels: one label or several, with or without splits; mistakes are named with their row."""

import pytest
from PIL import Image

from mixonomy.data import open_source


def write(folder, text, *, files=("a.png", "sub/b.png", "c.png", "d.png"), name="labels.csv", encoding="utf-8"):
    for number, path in enumerate(files):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / path)
    (folder / name).write_text(text, encoding=encoding)
    return str(folder / name)


def test_one_label_for_each_image(tmp_path):
    opened = open_source(write(tmp_path, "path,label\nsub/b.png,dog\na.png,cat\nc.png,dog\n"))
    assert opened.class_names == ("cat", "dog") and list(opened.splits) == ["train"] and not opened.is_multilabel
    train = opened.splits["train"]
    assert list(train.names) == ["a.png", "c.png", "sub/b.png"] and train.labels.tolist() == [0, 1, 1]
    assert train[2] == ((tmp_path / "sub/b.png").read_bytes(), 1)


def test_several_labels_or_none_for_an_image(tmp_path):
    opened = open_source(write(tmp_path, "path,label\na.png,red; round\nsub/b.png,red\nc.png,\nd.png,;square;\n"))
    assert opened.class_names == ("red", "round", "square") and opened.is_multilabel
    assert opened.splits["train"].labels.astype(int).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]]


def test_splits_of_several_labels_share_the_classes_of_train(tmp_path):
    text = "path,label,split\na.png,x;y,train\nsub/b.png,z,train\nc.png,z,test\nd.png,z;x,val\n"
    opened = open_source(write(tmp_path, text))
    assert opened.splits["test"].labels.astype(int).tolist() == [[0, 0, 1]]
    assert opened.splits["val"].labels.astype(int).tolist() == [[1, 0, 1]]


def test_split_column_tabs_and_what_excel_writes(tmp_path):
    text = "Label\tPath\tSplit\tcomment\ncat\ta.png\tTrain\tx\ndog\tsub\\b.png\ttrain\t\ndog\tc.png\tvalidation\t\n"
    opened = open_source(write(tmp_path, text, name="l.tsv", encoding="utf-8-sig"))
    assert {name: list(split.names) for name, split in opened.splits.items()} == {
        "train": ["a.png", "sub/b.png"],
        "val": ["c.png"],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column 'path', it is empty; path and label are needed"),
        ("file,label\na.png,x\n", "has no column 'path', only file, label; path and label are needed"),
        ("path,class\na.png,x\n", "has no column 'label', only path, class"),
        ("path;label\na.png;x\n", "separates its columns by ';', which stands between labels here"),
        ("path,label\nc.png,y\na.png,x\nc.png,x\n", "rows 2 and 4 of .* both name c.png; give each image one row"),
        ("path,label\n", "has no rows"),
        ("path,label\na.png,x\nnowhere.png,y\n", r"row 3 of .* names nowhere.png, and there is no such file in "),
        ("path,label\ny.png,x\nx.png,y\n", r"row 2 .*y\.png.*\(2 files are missing in all\)"),
        ("path,label\na.png,x\nc.png,\n", "row 3 of .* has no label"),
        ("path,label\n,x\n", "row 2 of .* has no path"),
        ("path,label,split\na.png,x,dev\n", "row 2 of .* has the split 'dev'; use train, val or test"),
        ("path,label,Label\na.png,x,y\n", "has the column 'label' twice; rename one"),
        ("path,label,split,split\na.png,x,train,val\n", "has the column 'split' twice; rename one"),
        ("path,label\na.png,x\nc.png,x\n", "has one label only, 'x'"),
        ("path,label,split\na.png,x,train\nc.png,y,train\nd.png,z,test\n", "test of .* classes that train lacks: z"),
    ],
)  # fmt: skip
def test_mistakes_get_one_sentence(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        open_source(write(tmp_path, text))


def test_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"path,label\n\xff\xfe\x00,a\n")
    with pytest.raises(ValueError, match="cannot be read as CSV"):
        open_source(str(tmp_path / "x.csv"))
    with pytest.raises(ValueError, match=r"no file .*nothing.csv"):
        open_source(str(tmp_path / "nothing.csv"))
