import os
import signal
import threading

import pytest

from scalespace.runs.stopping import Stopping


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP", "SIGTERM", "SIGUSR1"])
def test_a_signal_is_noted_and_answered_and_the_handler_is_put_back(name: str, capfd):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with Stopping() as stopping:
        assert stopping.reason is None
        os.kill(os.getpid(), number)
        assert stopping.reason == name
    assert signal.getsignal(number) is before
    assert capfd.readouterr().err == (
        f"\n{name}: stopping after this step, with a checkpoint; Ctrl-C once more stops at once\n"
    )
    with Stopping(aloud=False):
        os.kill(os.getpid(), number)
    assert capfd.readouterr().err == ""


def test_a_second_interrupt_stops_at_once_and_an_echo_of_the_first_does_not(monkeypatch):
    now = 100.0
    monkeypatch.setattr("scalespace.runs.stopping.time.monotonic", lambda: now)
    with Stopping(aloud=False) as stopping:
        os.kill(os.getpid(), signal.SIGINT)
        now += 0.9
        os.kill(os.getpid(), signal.SIGINT)
        assert stopping.reason == "SIGINT"
        now += 0.2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    # One after another signal is the first.
    with Stopping(aloud=False) as stopping:
        os.kill(os.getpid(), signal.SIGTERM)
        now += 9
        os.kill(os.getpid(), signal.SIGINT)
        assert stopping.reason == "SIGTERM"


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stopping(aloud=False) as stopping:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stopping.reason is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_limit_of_time_counts_from_the_beginning(monkeypatch):
    now = 100.0
    monkeypatch.setattr("scalespace.runs.stopping.time.monotonic", lambda: now)
    stopping = Stopping(1.5)
    now += 1.5 * 3600 - 1
    with stopping:
        assert stopping.reason is None
        now += 1
        assert stopping.reason == "--max-hours 1.5"


def test_outside_the_main_thread_only_the_time_counts():
    reasons: list[str | None] = []

    def run() -> None:
        with Stopping(0.0) as stopping:
            reasons.append(stopping.reason)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert reasons == ["--max-hours 0"]
