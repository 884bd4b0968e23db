"""The fastest good artifact of several, on sessions whose speed and loss are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import pytest

from edgedeploy import fastest
from edgedeploy.artifact import Artifact
from edgedeploy.errors import RunFailed, Unavailable
from edgedeploy.fastest import Judge, candidates_of, golden_distance, rank
from edgedeploy.runtime import Session
from edgedeploy.testing import FakeSession

#: Seconds of a call and loss, by candidate.
KNOWN = {"slow": (0.004, 0.0), "quick": (0.001, 0.002), "quickest": (0.0005, 0.3), "near": (0.0011, 0.0)}


class Emulated(FakeSession):
    """Not the device."""

    @property
    def facts(self) -> Mapping[str, str | int | float]:
        return {"emulated": "a simulator"}


@pytest.fixture
def made(exported: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch) -> dict[str, Artifact | str]:
    """Bundles called after what is known of them; sessions are fakes, and timing is what is known."""
    base = exported("fp32")
    bundles: dict[str, Artifact | str] = {}
    for name in KNOWN:
        bundles[name] = dataclasses.replace(base, manifest=dataclasses.replace(base.manifest, name=name))
    monkeypatch.setattr(
        fastest, "open_artifact_here", lambda artifact, threads: FakeSession(facts={"computes_in": "x"})
    )

    def known(artifacts: Mapping[str, Artifact], sessions: Mapping[str, Session], duration: float) -> dict[str, float]:
        return {name: KNOWN[name][0] for name in sessions}

    monkeypatch.setattr(fastest, "_medians", known)
    return bundles


JUDGE = Judge(lambda artifact, session: KNOWN[artifact.manifest.name][1], 0.01, "loss")


def test_the_fastest_that_keeps_the_accuracy_is_chosen(made: dict[str, Artifact | str]) -> None:
    ranked = rank(made, JUDGE)
    assert [(one.name, one.outcome) for one in ranked] == [
        ("quick", "chosen"),
        ("near", "slower"),
        ("slow", "slower"),
        ("quickest", "loses too much"),
    ]
    assert ranked[1].slower == pytest.approx(1.1)
    assert ranked[3].reason == "loss: 0.3000, allowed is 0.01"
    assert ranked[3].seconds is None
    assert ranked[0].computes_in == "x"


def test_one_that_failed_is_told_and_does_no_harm(
    made: dict[str, Artifact | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(artifact: Artifact, session: Session) -> float:
        if artifact.manifest.name == "near":
            raise RunFailed("it died")
        return 0.0

    made["other"] = "its converter refused"
    ranked = rank(made, Judge(judge, 0.01, "loss"))
    told = {one.name: one.reason for one in ranked if one.outcome == "failed"}
    assert told == {"near": "it died", "other": "its converter refused"}
    assert ranked[0].name == "quickest"


def test_what_is_only_emulated_here_is_no_candidate(
    made: dict[str, Artifact | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastest, "open_artifact_here", lambda artifact, threads: Emulated())
    with pytest.raises(Unavailable, match=r"No backend here keeps the accuracy.*emulated by: a simulator"):
        rank(made, JUDGE)


def test_none_left_is_an_error_that_says_why(made: dict[str, Artifact | str]) -> None:
    with pytest.raises(Unavailable, match=r"quick: loss: 0\.0020, allowed is 1e-09"):
        rank({"quick": made["quick"]}, dataclasses.replace(JUDGE, allowed=1e-9))


def test_without_labels_golden_results_are_what_there_is(exported: Callable[..., Artifact]) -> None:
    artifact = exported("fp32")
    worst = max(golden.distance or 0.0 for golden in artifact.manifest.golden)
    assert golden_distance(artifact, FakeSession()) == worst


def test_only_precisions_that_an_exporter_has() -> None:
    pytest.importorskip("onnxruntime")
    found = candidates_of(["onnxruntime"], ["fp32", "fp7", "int8"])
    assert found == [("onnxruntime", "fp32"), ("onnxruntime", "int8")]


def test_real_sessions_are_timed_in_turn(exported: Callable[..., Artifact]) -> None:
    ranked = rank({"one": exported("fp32"), "two": exported("fp32")}, Judge(golden_distance, 0.1, "x"), 1, duration=0.2)
    assert {one.outcome for one in ranked} == {"chosen", "slower"}
    assert all(one.seconds is not None and one.seconds > 0 for one in ranked)
