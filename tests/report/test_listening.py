"""What was heard, as rows and sentences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgedeploy.errors import UsageError
from edgedeploy.listening import Account, Decision, Utterance
from edgedeploy.report.listening import HEADER, Scene, notes, picture, rows
from tests.listening.ear import TASK

TOP = (("yes", 0.9), ("no", 0.25), ("up", 0.125))


def utterance(decision: Decision | None, *doubts: str) -> Utterance:
    return Utterance(2.0, 1.0, 64, TOP, decision, 0.5, doubts)


def test_rows_say_when_it_was_decided_and_on_what() -> None:
    early, other = (Decision(word, 0.8, 2.0, 20, 0.5, 0.55) for word in ("yes", "no"))
    accounts = [
        Account("a/b.wav", 2.0, 0.1, (utterance(early),), doubts=("sound was lost",)),
        Account("c.wav", 2.0, 0.1, (utterance(other), utterance(None, "silence")), undecided=1),
    ]
    found = rows(accounts)
    assert all(len(row) == len(HEADER) for row in found)
    assert found[0] == ("b.wav", "2.00 s", "yes", "0.900", "0.50 s", "0.55 s", "no 0.250, up 0.125")
    assert [row[4:6] for row in found[1:]] == [("no: 0.50 s", "0.55 s"), ("not early", "")]
    assert notes(accounts) == [
        "b.wav: sound was lost",
        "c.wav: silence",
        "c.wav: 1 utterance ended without a decision.",
        "4.00 s of sound took 0.20 s, a real-time factor of 0.05 here: no benchmark, which 'edgedeploy bench' makes.",
    ]
    assert notes([]) == []


def test_nothing_makes_no_picture(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.wav gave no answer"):
        picture(Scene("a.wav", np.zeros(0, np.float32), (), (), 0.5), TASK, tmp_path / "a.png")
