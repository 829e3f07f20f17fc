import itertools

import pytest

from mcil.data import progress as module
from mcil.data.progress import progress


def test_plain_lines_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = itertools.count(step=4)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(seconds))
    with progress("baking", 10, done=2) as advance:
        for _ in range(8):
            advance()
    # A cake every 4 seconds, a line every 12, and the rate is measured from the first cake on.
    assert capsys.readouterr().err.splitlines() == [
        "baking: 5/10, 0.2/s, 20 s left",
        "baking: 8/10, 0.2/s, 8 s left",
    ]


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress("baking", 3) as advance:
        for _ in range(3):
            advance()
    shown = capsys.readouterr().err
    assert "baking" in shown
    assert "3/3" in shown
    assert "/s" in shown
