"""An explanation as tables and lines, and as a picture."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from edgedeploy.cost import GraphCost, NodeCost
from edgedeploy.errors import UsageError
from edgedeploy.facts import Bandwidth, Flops, Ops
from edgedeploy.records import to_json
from edgedeploy.report.roofline_plot import check, draw
from edgedeploy.report.why import (
    KIND_HEADER,
    NODE_HEADER,
    cause_lines,
    headline,
    kind_rows,
    node_rows,
    roof_lines,
    summary,
)
from edgedeploy.roofline import Roofs, Why, causes, join
from edgedeploy.runtime import NodeTime, Profile


def node(name: str, kind: str, flops: int, size: int, dtype: str = "fp32") -> NodeCost:
    return NodeCost(name, kind, flops, size, 0, 0, dtype, (1, 16, 8, 8), ((f"{name}_in", size),), ())


def explained(counted: bool = True, peak: bool = True) -> Why:
    """4 ms of a convolution at half its peak, 2 ms of a Concat, 2 ms in no node; the profiler adds a fifth."""
    costs = GraphCost((node("conv", "Conv", 2 * 10**8, 10**6), node("cat", "Concat", 0, 3 * 10**7)), ("Magic",))
    times = (
        NodeTime("conv", "Conv", 4e-3, covers=("conv",)),
        NodeTime("a_very_long_name_of_a_node_in_the_middle_of_a_graph", "Concat", 2e-3, covers=("cat",)),
    )
    peaks = {"fp32": Flops("100 GFLOP/s", "measured", "a probe: at night") if peak else Flops(), "int8": Ops()}
    roofs = Roofs("board", "cpu", peaks, Bandwidth("20 GB/s", "official", "a maker"), ("Peaks are made up.",))
    profile = Profile(times, 9.6e-3, 7, "a profiler", 3.6e-3)
    line = join(costs if counted else None, profile, roofs, 8e-3)
    return Why("net", "fake", "1.0", "fp32", 1, 1, line, causes(line))


def test_the_headline() -> None:
    lines = headline(explained())
    assert lines[0] == "net in fp32 on fake 1.0, 1 thread: 8.00 ms a pass of the graph"
    assert lines[1] == "200 MFLOP a pass, 29.6 MiB moved between nodes; 25 % of the dense peak, 19 % of the bandwidth"
    assert "median of 7 passes, which take 1.20 times as long with it" in lines[2]
    assert lines[3:] == ["Peaks are made up.", "Of the costs: The operations of Magic are not known and count as none."]


def test_interrupted_passes_are_told() -> None:
    why = explained()
    slow = dataclasses.replace(why, roofline=dataclasses.replace(why.roofline, seconds=16e-3))
    assert any("add up to 8.00 ms" in line for line in headline(slow))
    assert not any("add up to" in line for line in headline(why))


def test_tables() -> None:
    why = explained()
    nodes = node_rows(why.roofline)
    assert nodes[0] == ("conv", "Conv fp32", "4.00 ms", "50 %", "200 MFLOP", "50 %", "1.2 %", "compute")
    assert nodes[1][0] == "a_very_long_na...dle_of_a_graph"
    assert nodes[1][3:] == ("25 %", "-", "-", "75 %", "memory")
    assert len(node_rows(why.roofline, 1)) == 1
    kinds = kind_rows(why.roofline)
    assert kinds[0] == ("Conv fp32", "1", "4.00 ms", "50 %", "200 MFLOP", "50 %", "1.2 %", "977 KiB")
    assert kinds[-1][:4] == ("in no node", "-", "2.00 ms", "25 %")
    assert {len(row) for row in nodes} == {len(NODE_HEADER)}
    assert {len(row) for row in kinds} == {len(KIND_HEADER)}


def test_the_roofs_have_their_sources() -> None:
    assert roof_lines(explained().roofline) == [
        "dense peak in fp32: 100 GFLOP/s (measured: a probe)",
        "bandwidth: 20 GB/s (official: a maker)",
    ]


def test_what_is_unknown_has_no_percentage() -> None:
    why = explained(peak=False)
    assert "share of the dense peak unknown" in headline(why)[1]
    assert roof_lines(why.roofline)[0] == "dense peak in fp32: unknown"
    assert node_rows(why.roofline)[0][5] == "-"
    nothing = explained(counted=False)
    assert headline(nothing)[1].startswith("operations unknown, bytes unknown; share of the dense peak unknown")
    assert node_rows(nothing.roofline)[0][4:7] == ("-", "-", "-")


def test_causes_are_numbered_with_their_remedies() -> None:
    lines = cause_lines(explained().causes)
    assert lines[0].startswith("1. 50 % compute: Arithmetic bounds 1 node (1 Conv)")
    assert lines[0].endswith("Most of it in conv.")
    assert lines[1].startswith("   -> Fewer, larger layers")
    assert len(lines) == 6


def test_the_summary_is_json() -> None:
    said = json.loads(json.dumps(to_json(summary(explained()))))
    assert said["of_peak"] == pytest.approx(0.25)
    assert said["roofs"]["bandwidth"]["value"] == "20 GB/s"
    assert {cause["kind"] for cause in said["causes"]} == {"compute", "memory", "dispatch"}
    assert said["nodes"][0]["stored"] == ["conv"]
    assert json.loads(json.dumps(to_json(summary(explained(peak=False)))))["of_peak"] is None


# The picture


def test_the_picture_is_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert draw(explained(), tmp_path / "roof.png").read_bytes()[:4] == b"\x89PNG"
    drawn = draw(explained(), tmp_path / "roof.svg").read_text("utf-8")
    for word in ("net in fp32, fake 1.0, 1 thread", "25 % of the dense peak", "Conv, 50 % of the pass"):
        assert word in drawn
    assert "Concat" not in drawn


def test_a_picture_without_roofs_still_has_its_dots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    why = explained(peak=False)
    roofs = dataclasses.replace(why.roofline.roofs, bandwidth=Bandwidth())
    bare = dataclasses.replace(why, roofline=dataclasses.replace(why.roofline, roofs=roofs))
    assert "Conv, 50 % of the pass" in draw(bare, tmp_path / "roof.svg").read_text("utf-8")


def test_there_is_nothing_to_draw_without_costs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(UsageError, match="no roofline to draw of net"):
        draw(explained(counted=False), tmp_path / "roof.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["roof.bmp", "roof", "nowhere/roof.png"])
def test_pictures_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"no \.png, \.svg or \.pdf file"):
        check(tmp_path / name)
