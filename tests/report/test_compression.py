"""The table of a compression: no number without what it depends on, the same everywhere, names that can be read."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.records import to_json
from edgedeploy.report import labels
from edgedeploy.report.compression import files as compression_files
from edgedeploy.report.compression import page as compression_page
from edgedeploy.report.compression import text
from edgedeploy.report.compression.papers import paper
from edgedeploy.report.compression.records import CompressionTable, Speed


def _kit() -> Any:
    spec = spec_from_file_location("compression_kit", Path(__file__).with_name("compression_kit.py"))
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


KIT = _kit()


@pytest.fixture(scope="module")
def table() -> CompressionTable:
    made: CompressionTable = KIT.table()
    return made


def test_a_table_is_the_same_after_json(table: CompressionTable) -> None:
    again = CompressionTable.from_json(json.loads(json.dumps(table.to_json())), "t")
    assert again == replace(table, settings=to_json(table.settings))


def test_every_column_names_size_protocol_and_reference(table: CompressionTable) -> None:
    names = text.header(table)
    assert names[2:4] == ("MACs at 320x320", "FLOPs at 320x320")
    assert names[5] == "AP50 (ultralytics, 320x320)"
    assert names[-2] == "FPS, 1 thread (times baseline, ONNX fp32)"
    assert all(len(row) == len(names) for row in text.rows(table))
    said = " ".join(text.notes(table))
    for what in (
        "faster-coco-eval 1.7.2", "at most 300 detections", "hit_uav (val), 290 images", "1 MAC = 2 FLOPs",
        "90% intervals", "1 / median latency of one stream", "the network alone", "AMD EPYC", "31% of the processors",
    ):  # fmt: skip
        assert what in said


def test_the_numbers_of_a_row(table: CompressionTable) -> None:
    row = next(row for row in text.rows(table) if row[0] == "distilled, ONNX int8")
    assert row[1:5] == ("1.06 M", "861 M", "1.72 G", "1.01 MiB")
    assert row[5:8] == ("0.7350", "-0.0170 (-0.0310 to -0.0050)", "0.4410")
    assert row[8:10] == ("0.367 / 0.588 / -", "0.661 / 0.772 / -")
    assert row[10] == "108.1 (3.35x, 3.25x to 3.42x)"


def test_rungs_of_other_sizes_and_protocols_say_theirs(table: CompressionTable) -> None:
    first = table.rungs[0]
    assert first.accuracy is not None
    metric = replace(first.accuracy.metric, protocol="visdrone", max_detections=500, ignored=True)
    other = replace(first, size=(640, 640), accuracy=replace(first.accuracy, metric=metric, size=(640, 640)))
    mixed = replace(table, rungs=(other, *table.rungs[1:]))
    assert text.header(mixed)[2] == "MACs"
    assert text.header(mixed)[5] == "AP50"
    assert [row[2] for row in text.rows(mixed)][:2] == ["2.02 G at 640x640", "2.02 G at 320x320"]
    assert text.rows(mixed)[0][5] == "0.7520 (visdrone)"
    assert "ignored regions left out" in " ".join(text.notes(mixed))


def test_each_step_says_whether_it_helped(table: CompressionTable) -> None:
    sparse, pruned, tuned, distilled = text.steps(table)
    assert sparse.startswith("sparse against baseline: AP50 -0.0040 (-0.0180 to +0.0080), no difference is shown;")
    assert "worse" in pruned
    assert "better" in tuned
    assert "distilled against fine-tuned" in distilled
    assert "no difference is shown" in distilled


def test_what_has_no_number_says_why(table: CompressionTable) -> None:
    assert text.missing(table) == [
        "distilled, TensorRT fp16: not measured, not possible on this machine: There is no NVIDIA GPU here."
    ]
    assert text.speed(Speed(1, 0.01, 5)) == "100.0 (too few calls for a ratio)"


def test_markdown_and_csv_have_the_same_numbers(table: CompressionTable) -> None:
    rung = replace(table.rungs[-2], name="=1+1|<b>")
    nasty = replace(table, rungs=(*table.rungs[:-2], rung))
    document = text.markdown(nasty, "pareto.png")
    assert "<b>" not in document
    assert "108.1 (3.35x, 3.25x to 3.42x)" in document
    assert "![AP over speed and work](pareto.png)" in document
    records = list(csv.DictReader(io.StringIO(text.comma_separated(nasty))))
    last = records[len(nasty.rungs) - 1]
    assert last["name"] == "'=1+1|<b>"
    assert float(last["ap50"]) == 0.735
    assert float(last["fps_1_threads"]) == pytest.approx(108.06, abs=0.01)
    assert (last["protocol"], last["input_height"], last["evaluator"]) == (
        "ultralytics",
        "320",
        "faster-coco-eval 1.7.2",
    )
    assert "AMD EPYC" in last["timed_on_1_threads"]
    assert {one["measured"] for one in records[len(nasty.rungs) :]} == {"no, published"}


def test_published_figures_are_those_of_the_abstract_and_marked(table: CompressionTable) -> None:
    found = paper("yolov8_compression")
    assert [(row.params, row.macs, row.ap50, row.fps) for row in found.rows] == [
        (25.85e6, 101e9, None, 26),
        (6.85e6, 34.5e9, 0.479, 45),
        (None, None, 0.476, 68),
    ]
    assert all(row.source == "abstract" for row in found.rows)
    remarks = " ".join(found.remarks)
    for what in ("1024x1024", "no count of operations", "Hardware", "nothing in this part was measured"):
        assert what in remarks
    assert text.paper_rows(found)[1][1:] == ("6.85 M", "34.5 G", "13.3 G", "0.479", "45")
    assert "not measured here" in text.markdown(table)
    assert "50.6" not in text.markdown(table)  # nobody could check it


def test_names_do_not_cover_each_other_or_points() -> None:
    figure = pytest.importorskip("matplotlib.figure")
    for seed in range(4):
        axes = figure.Figure(figsize=(6.4, 4.7), dpi=72).subplots()
        x, y = np.random.default_rng(seed).random((2, 9))
        axes.plot(x * 0.3, y * 0.3, "o")  # a crowd in a corner
        axes.set(xlim=(0, 1), ylim=(0, 1))
        points = np.stack([x, y], axis=1) * 0.3
        named = [labels.Named(f"distilled, ONNX int{i}", *point) for i, point in enumerate(points)]
        boxes = labels.write(axes, named, "black", "grey")
        axes.figure.draw_without_rendering()
        for i, box in enumerate(boxes):
            assert all(labels.overlap(box, other) < 1e-6 for other in boxes[:i])
            for px, py in axes.transData.transform(points):
                assert labels.overlap(box, (px - 3, py - 3, px + 3, py + 3)) < 1e-6


def test_views_show_what_can_be_compared(table: CompressionTable) -> None:
    pytest.importorskip("matplotlib")
    from edgedeploy.report.compression.chart import caption, chart, views

    one, two, work = views(table, "AP50")
    assert [dot.name for dot in one.dots] == [
        f"{n}, ONNX {p}" for n in ("baseline", "distilled") for p in ("fp32", "int8")
    ]
    assert "1 thread" in one.axis
    assert "2 threads" in two.axis
    assert work.axis == "GMACs at 320x320 (1 MAC = 2 FLOPs)"
    assert [dot.name for dot in work.left_out] == ["pruned"]  # it would press the others together
    assert "Not shown: pruned (0.0120)" in caption(table, work)
    assert one.dots[-1].y_bounds == pytest.approx((0.721, 0.747))
    bounds = one.dots[-1].x_bounds or (0, 0)
    assert bounds[0] < one.dots[-1].x < bounds[1]
    drawn = chart(table, one, "AP50", "view")
    assert "AP50, protocol ultralytics, 320x320" in drawn.svg
    assert "AMD EPYC" in drawn.caption
    assert views(replace(table, rungs=table.rungs[:1], timings=())) == ()


def test_the_report_is_whole_and_needs_nothing_else(table: CompressionTable, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    (tmp_path / "sparse.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    nasty = replace(table, recipe="<script>alert(1)</script>", pictures={**table.pictures, "../x.png": "gone"})
    found = compression_files.publish(nasty, tmp_path)
    assert [path.name for path in found.files] == ["table.json", "pareto.png", "table.md", "table.csv", "report.html"]
    assert found.notes == ()
    assert compression_files.kept(tmp_path) == replace(nasty, settings=to_json(nasty.settings))
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert page.count("data:image/png;base64") == 1
    for what in (
        "0.7420", "-0.0240 to", "108.1", "3.25x to", "What each step did", "not measured here", "1024x1024",
        "Lineage", "yolov8n.pt", "GMACs at 320x320", "1 doubt<",
    ):  # fmt: skip
        assert what in page.replace("\N{NO-BREAK SPACE}", " "), what
    assert compression_page.page(nasty, tmp_path) == page


def test_without_matplotlib_the_numbers_are_there(
    table: CompressionTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> str:
        raise Unavailable.extra("matplotlib, which draws charts,", "report")

    monkeypatch.setattr(compression_files, "picture", refuse)
    monkeypatch.setattr(compression_files, "page", refuse)
    found = compression_files.publish(table, tmp_path)
    assert [path.name for path in found.files] == ["table.json", "table.md", "table.csv"]
    assert len(found.notes) == 2
    assert "edgedeploy[report]" in found.notes[0]
    assert "pareto.png" not in (tmp_path / "table.md").read_text("utf-8")
    with pytest.raises(UsageError, match="does not exist"):
        compression_files.kept(tmp_path / "none")
