"""What a training does with the signals that ask it to stop."""

import os
import signal
import sys

import pytest

from mixonomy.stopping import PREEMPTED, leaving_when_preempted, stop_on_signals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
OUTSIDE = [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP]


@pytest.fixture(autouse=True)
def terminal():
    """As if one was there, also where the tests run under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, *OUTSIDE])
def test_signal_asks_to_stop_and_says_where_it_came_from(number, capsys):
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop.is_set() and not stop.is_preempted
        os.kill(os.getpid(), number)
        assert stop.is_set() and stop.is_preempted == (number != signal.SIGINT)
    assert signal.getsignal(number) is before
    assert "finishing this step and saving" in capsys.readouterr().err


def test_signals_that_come_while_one_is_handled_are_no_deadlock(monkeypatch):
    left = [signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM]

    class Interrupting:
        """A standard error whose writes are met by another signal."""

        def write(self, text):
            if left:
                os.kill(os.getpid(), left.pop())

        def flush(self):
            pass

    monkeypatch.setattr(sys, "stderr", Interrupting())
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set() and stop.is_preempted and not left


@pytest.mark.parametrize("error", [BrokenPipeError, RuntimeError("reentrant call inside <_io.BufferedWriter>")])
def test_nobody_who_listens_is_no_reason_to_lose_the_step(error, monkeypatch):
    class Gone:
        def write(self, text):
            raise error

        def flush(self):
            raise error

    monkeypatch.setattr(sys, "stderr", Gone())
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set()


def test_closed_terminal_that_is_ignored_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as by `nohup`
    with leaving_when_preempted(), stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.is_set()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize("number", OUTSIDE)
def test_where_there_is_nothing_to_save_the_process_leaves_at_once(number):
    with pytest.raises(SystemExit) as left, leaving_when_preempted():
        os.kill(os.getpid(), number)
    assert left.value.code == PREEMPTED
