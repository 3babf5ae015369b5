"""What a person names, and the image files that are found."""

import io
import os
from pathlib import Path

import pytest

from mixonomy.data import find_images


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """A folder with images at two depths, and beside them what is no image, hidden, or a link in a circle."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    for name in ("b.jpg", "a.PNG", "sub/c.jpeg", "sub/deep/d.jpg", "x.jpg/inner.jpg", ".hidden.jpg", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    for name in ("@eaDir/thumb.jpg", ".git/e.jpg"):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(b"")
    (folder / "circle").symlink_to(".")
    (folder / "sub/circle").symlink_to("..")
    return folder


ALL = ["a.PNG", "b.jpg", "sub/c.jpeg", "sub/deep/d.jpg", "x.jpg/inner.jpg"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("photos", ALL),
        ("photos/", ALL),
        ("photos/*.jpg", ["b.jpg"]),
        ("photos/*", ["a.PNG", "b.jpg"]),
        ("photos/?.[jp]*", ["b.jpg"]),
        ("photos/**/*.jpg", ["b.jpg", "sub/deep/d.jpg", "x.jpg/inner.jpg"]),
        ("photos/**", ALL),
        ("photos/**/deep/*", ["sub/deep/d.jpg"]),
        ("photos/s*/**/*.jp*g", ["sub/c.jpeg", "sub/deep/d.jpg"]),
        ("photos/.git/*.jpg", [".git/e.jpg"]),
    ],
)
def test_folders_and_globs_stand_for_their_images_in_order(photos, pattern, expected):
    found = find_images([pattern])
    assert list(found.paths) == [f"photos/{path}" for path in expected] and not found.problems


def test_glob_without_a_folder_searches_here(photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert list(find_images(["**/d.*"]).paths) == ["sub/deep/d.jpg"]
    assert list(find_images(["*.jpg"]).paths) == ["b.jpg"]


def test_tilde_inside_quotes_is_the_home_folder(photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos))
    assert list(find_images(["~/*.jpg"]).paths) == [str(photos / "b.jpg")]


def test_named_files_keep_their_order_whatever_they_are(photos):
    names = ["photos/b.jpg", "photos/notes.txt", "photos/missing.jpg", "photos/.hidden.jpg", "photos/b.jpg"]
    found = find_images(names)
    assert list(found.paths) == names and not found.problems


def test_name_that_exists_is_no_glob(photos):
    (photos / "[ab].jpg").write_bytes(b"")
    assert list(find_images(["photos/[ab].jpg"]).paths) == ["photos/[ab].jpg"]
    (photos / "[ab].jpg").unlink()
    assert list(find_images(["photos/[ab].jpg"]).paths) == ["photos/b.jpg"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"one.jpg\ntwo words.jpg\r\n\nx*.jpg", ["one.jpg", "two words.jpg", "x*.jpg"]),
        (b"new\nline.jpg\0two.jpg\0", ["new\nline.jpg", "two.jpg"]),
        (b"no\xffutf8.jpg\n", [os.fsdecode(b"no\xffutf8.jpg")]),
        (b"photos/sub\n", ["photos/sub/c.jpeg", "photos/sub/deep/d.jpg"]),
    ],
)
def test_dash_reads_a_list(photos, content, expected):
    (photos / "sub/circle").unlink()
    assert list(find_images(["a.jpg", "-"], io.BytesIO(content)).paths) == ["a.jpg", *expected]


def test_what_is_empty_stands_in_its_place_with_the_reason(photos):
    (photos / "empty").mkdir()
    found = find_images(["photos/empty", "photos/b.jpg", "photos/*.gif", "-"], io.BytesIO(b"\n"))
    assert list(found.paths) == ["photos/empty", "photos/b.jpg", "photos/*.gif", "-"]
    assert found.problems == {
        0: "a folder without images",
        2: "no image matches this pattern",
        3: "no paths on standard input",
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["empty"], "'empty': a folder without images"),
        (["*.jpg", "empty"], r"'\*.jpg': no image matches this pattern; 'empty': a folder without images\)"),
        (["-"], "-: no paths on standard input"),
        (["a*", "b*", "c*", "d*", "e*"], "'c\\*': no image matches this pattern; and 2 more"),
    ],
)
def test_nothing_at_all_is_one_sentence(tmp_path, monkeypatch, names, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"no images to classify .*{message}"):
        find_images(names, io.BytesIO(b""))


def test_folder_that_cannot_be_searched_is_a_problem_of_its_own(photos, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("mixonomy.data.sources.files.os.scandir", denied)
    found = find_images(["photos", "a.jpg"])
    assert found.problems == {0: "a folder that cannot be searched (Permission denied)"}


def test_folder_below_that_cannot_be_searched_leaves_the_others_their_answers(photos, monkeypatch):
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("sub/deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("mixonomy.data.sources.files.os.scandir", denied)
    found = find_images(["photos"])
    assert list(found.paths) == [f"photos/{path}" for path in (*ALL[:3], "sub/deep/", "x.jpg/inner.jpg")]
    assert found.problems == {3: "a folder that cannot be searched (Permission denied)"}


def test_image_on_standard_input_is_no_list(photos):
    with pytest.raises(ValueError, match="standard input is an image, not a list of paths; give the path of its file"):
        find_images(["-"], io.BytesIO(b"\xff\xd8\xff\xe0\0\x10JFIF"))
