"""``edgedeploy compare --ladder``: tables for people, one document for programs, and a status."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from edgedeploy.artifact import MANIFEST, Artifact, seal


def wrong_colours(bundle: Path) -> Path:
    """The bundle with another colour order in its contract, and a manifest that is right otherwise."""
    manifest = Artifact.open(bundle).manifest
    (bundle / MANIFEST).unlink()
    seal(bundle, dataclasses.replace(manifest, task={**(manifest.task or {}), "color": "BGR"}))
    return bundle


def test_a_ladder_that_holds(cli: Any, demo: Any) -> None:
    result = cli("compare", demo.checkpoint, demo.int8, "--data", demo.data, "--ladder", "--threads", 1, "--limit", 4)
    assert result.status == 0, result.err
    for word in ("exported program", "ONNX", "int8 ONNX", "artifact", "4 of scenes-30, 4 images"):
        assert word in result.out
    assert result.out.splitlines()[-1] == "holds: every rung, over 4 samples"


def test_a_broken_rung_is_status_4_and_fixed_by_exporting_again(cli: Any, demo: Any, fp32: Path) -> None:
    wrong_colours(fp32)
    before = Artifact.open(fp32).digest
    asked = ("compare", demo.checkpoint, fp32, "--ladder", "--threads", 1, "--json")
    result = cli(*asked)
    assert result.status == 4
    assert result.json["fix"] is None
    assert result.json["ladder"]["broken"] == "input"
    assert result.json["ladder"]["count"] == 2
    fixed = cli(*asked, "--fix")
    assert fixed.status == 0, fixed.err
    assert [one["added"] for one in fixed.json["fix"]["rounds"]] == [[]]
    assert (Artifact.open(fixed.json["fix"]["artifact"]).manifest.task or {})["color"] == "RGB"
    assert Artifact.open(fp32).digest == before


def test_a_comparison_without_data_says_what_else_there_is(cli: Any, demo: Any) -> None:
    cli("compare", demo.checkpoint, demo.fp32).refused(2, "give --data data.yaml, or --ladder")


def test_int8_is_not_fixed_without_images(cli: Any, demo: Any, tmp_path: Path) -> None:
    import shutil

    bundle = wrong_colours(Path(shutil.copytree(demo.int8, tmp_path / "aerial.edge")))
    result = cli("compare", demo.checkpoint, bundle, "--threads", 1, "--fix")
    result.refused(2, "there have to be images to calibrate on: give --data")
    assert [p.name for p in tmp_path.iterdir()] == ["aerial.edge"]
