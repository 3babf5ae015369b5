"""What a person sees."""

import pytest

from mixonomy import progress
from mixonomy.progress import Console


def test_plain_lines_are_rare_and_name_the_time_left(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 11.0, 12.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Console().progress(100, 0) as meter:
        for done in (5, 10, 11):
            meter.update(done, "loss 1.0")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["step 10/100  loss 1.0  1 min 39 s left"]


def test_quiet_console_says_nothing(capsys):
    console = Console(quiet=True)
    console.say("hello")
    with console.progress(10, 0) as meter:
        meter.update(5, "x")
    assert capsys.readouterr() == ("", "")


def test_bar_on_a_terminal_shows_the_text_and_lines_above_it(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    console = Console()
    with console.progress(10, 0) as meter:
        meter.update(5, "loss 0.5")
        console.say("epoch 1 [done]")
    assert "epoch 1 [done]" in capsys.readouterr().err


@pytest.mark.parametrize("done", [0, 3])
def test_meter_of_a_resumed_run_counts_from_where_it_was(done, capsys, monkeypatch):
    clock = iter([0.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Console().progress(13, done) as meter:
        meter.update(done + 2, "x")
    left = 20.0 / 2 * (13 - done - 2)
    assert f"{left // 60:.0f} min {left % 60:.0f} s left" in capsys.readouterr().err
