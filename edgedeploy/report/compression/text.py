"""A compression as rows of text, Markdown and CSV. Pure functions of the record; every form has the same numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from edgedeploy.accuracy import Accuracy, Difference
from edgedeploy.report.compression.records import CompressionTable, Paper, PaperRow, Rung, Speed, Timing
from edgedeploy.report.markdown import escaped
from edgedeploy.report.tables import cell
from edgedeploy.units import show

UNKNOWN = "-"
PAPER_HEADER = ("published, not measured here", "parameters", "MACs", "what it calls FLOPs", "AP50", "FPS")


def header(table: CompressionTable) -> tuple[str, ...]:
    """Names of the columns; a size or a protocol that all rungs share is named here, else in the cells."""
    size, rules = shared_size(table), shared_protocol(table)
    at = f" at {size}" if size else ""
    judged = ", ".join(filter(None, (rules, size)))
    by = f" ({judged})" if judged else ""
    sure = confidence(table)
    return (
        *("network", "parameters", f"MACs{at}", f"FLOPs{at}", "file", f"AP50{by}"),
        f"AP50 - baseline{f' ({sure} interval)' if sure else ''}",
        *(f"AP50-95{by}", "AP50-95 small / medium / large", "AP50 small / medium / large"),
        *(f"FPS, {counted(timing.threads)} (times {timing.reference})" for timing in table.timings),
    )


def rows(table: CompressionTable) -> list[tuple[str, ...]]:
    """A row per rung, under `header`."""
    return [_row(table, rung) for rung in table.rungs]


def notes(table: CompressionTable) -> list[str]:
    """What the numbers depend on: without these sentences none of them means anything."""
    said = [f"Data: {table.data}, {table.images} images, {table.instances} objects, sha256 {table.digest[:12]}."]
    known = [rung.accuracy for rung in table.rungs if rung.accuracy is not None]
    said += list(dict.fromkeys(_evaluated(one) for one in known))
    if sure := confidence(table):
        first = next(r.difference.ap50 for r in table.rungs if r.difference is not None)
        said.append(
            f"Differences are from '{table.rungs[0].name}' on the same images, with {sure} intervals from a paired "
            f"bootstrap over images ({first.replicates} draws, seed {first.seed})."
        )
    said.append(
        "Parameters are counted with batch normalisation not folded, MACs are those of the convolutions for one image; "
        "1 MAC = 2 FLOPs. File is the network's file, of a bundle its graphs."
    )
    said += [_timed(timing) for timing in table.timings]
    by = dict.fromkeys(rung.run_by for rung in table.rungs if rung.run_by)
    return said + [
        f"AP of {', '.join(r.name for r in table.rungs if r.run_by == one)}: computed by {one}." for one in by
    ]


def steps(table: CompressionTable) -> list[str]:
    """What every step did to accuracy: each rung against the one that it was made from, with the interval."""
    said = []
    for rung in table.rungs:
        found = rung.against_previous
        if found is not None:
            told = "better" if found.ap50.low > 0 else "worse" if found.ap50.high < 0 else "no difference is shown"
            said.append(
                f"{rung.name} against {rung.previous}: AP50 {difference(found.ap50)}, {told}; "
                f"AP50-95 {difference(found.ap50_95)}."
            )
    return said


def missing(table: CompressionTable) -> list[str]:
    """What has no number, and why."""
    said = []
    for rung in table.rungs:
        if rung.unmeasured:
            said.append(f"{rung.name}: not measured, {rung.unmeasured}")
        elif rung.untimed and rung.form.startswith("PyTorch"):
            continue
        elif rung.untimed:
            said.append(f"{rung.name}: no FPS, {rung.untimed}")
    return said


def doubts(table: CompressionTable) -> list[str]:
    """Reasons not to trust numbers, each once."""
    own = [f"{rung.name}: {doubt}" for rung in table.rungs for doubt in rung.doubts if doubt not in table.doubts]
    return list(dict.fromkeys((*table.doubts, *own)))


def paper_rows(paper: Paper) -> list[tuple[str, ...]]:
    """A row per published row, under `PAPER_HEADER`."""
    return [_published(row) for row in paper.rows]


def markdown(table: CompressionTable, picture: str = "") -> str:
    """A document with everything; ``picture`` is the name of a file beside it."""
    lines = [f"# Compression: {escaped(table.recipe)}", "", f"Made {escaped(table.created)}.", ""]
    lines += [*_markdown_table(header(table), rows(table)), ""]
    if said := steps(table):
        lines += [f"What each step did ({confidence(table)} intervals, same images):", ""]
        lines += [*(f"- {escaped(line)}" for line in said), ""]
    lines += ["What the numbers depend on:", "", *(f"- {escaped(one)}" for one in (*notes(table), *missing(table)))]
    if picture:
        lines += ["", f"![AP over speed and work]({picture})"]
    if said := doubts(table):
        lines += ["", "## Doubts", "", *(f"- {escaped(doubt)}" for doubt in said)]
    if table.lineage:
        lines += ["", "## Lineage", "", *(f"{i}. {escaped(line)}" for i, line in enumerate(table.lineage, 1))]
    for paper in table.paper:
        lines += ["", "## Published figures, not measured here", "", f"{escaped(paper.title)}. "]
        lines += [f"{escaped(paper.model)} on {escaped(paper.data)}.", ""]
        lines += [*_markdown_table(PAPER_HEADER, paper_rows(paper)), ""]
        lines += [f"- {escaped(remark)}" for remark in paper.remarks]
    return "\n".join(lines) + "\n"


def comma_separated(table: CompressionTable) -> str:
    """A line per rung, then a line per published row; SI units in the names, empty where a number is not known."""
    records = [_record(table, rung) for rung in table.rungs]
    columns = list(dict.fromkeys(key for record in records for key in record))
    published = [
        {
            "measured": "no, published", "name": row.name, "params": row.params, "macs": row.macs, "ap50": row.ap50,
            "source": f"{paper.title}, {row.source}",
        }
        for paper in table.paper for row in paper.rows
    ]  # fmt: skip
    out = io.StringIO()
    writer = csv.DictWriter(out, [*columns, "source"], restval="")
    writer.writeheader()
    for record in (*records, *published):
        writer.writerow({key: cell(value) for key, value in record.items()})
    return out.getvalue()


def shared_size(table: CompressionTable) -> str:
    """``640x640`` where all rungs have one size, else nothing."""
    sizes = {rung.size for rung in table.rungs}
    return _side(next(iter(sizes))) if len(sizes) == 1 else ""


def shared_protocol(table: CompressionTable) -> str:
    """The protocol by which every rung was judged, else nothing."""
    known = {_protocol(rung.accuracy) for rung in table.rungs if rung.accuracy is not None}
    return next(iter(known)) if len(known) == 1 else ""


def confidence(table: CompressionTable) -> str:
    """That of the intervals of differences; nothing where there are none."""
    known = [rung.difference.ap50.confidence for rung in table.rungs if rung.difference is not None]
    return f"{known[0]:.0%}" if known else ""


def counted(threads: int) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{threads} thread{'s'[: threads != 1]}"


def difference(found: Difference | None) -> str:
    """``-0.0123 (-0.0200 to -0.0050)``."""
    return UNKNOWN if found is None else f"{found.estimate:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def speed(found: Speed | None) -> str:
    """``12.3 (1.73x, 1.70x to 1.75x)``."""
    if found is None:
        return UNKNOWN
    if found.ratio is None or found.low is None or found.high is None:
        return f"{found.fps:.1f} (too few calls for a ratio)"
    if found.low == found.high:
        return f"{found.fps:.1f} (1x)"
    return f"{found.fps:.1f} ({found.ratio:.2f}x, {found.low:.2f}x to {found.high:.2f}x)"


def _row(table: CompressionTable, rung: Rung) -> tuple[str, ...]:
    size = "" if shared_size(table) else f" at {_side(rung.size)}"
    metric = None if rung.accuracy is None else rung.accuracy.metric
    by = "" if rung.accuracy is None or shared_protocol(table) else f" ({_protocol(rung.accuracy)})"
    speeds = [next((s for s in rung.speed if s.threads == t.threads), None) for t in table.timings]
    return (
        *(rung.name, show(rung.params, ""), show(rung.macs, "") + size, show(rung.flops, "") + size),
        show(rung.bytes, "B") if rung.bytes else UNKNOWN,
        UNKNOWN if metric is None else ap(metric.ap50) + by,
        difference(None if rung.difference is None else rung.difference.ap50),
        UNKNOWN if metric is None else ap(metric.ap50_95) + by,
        UNKNOWN if metric is None else three(metric.small, metric.medium, metric.large),
        UNKNOWN if metric is None else three(metric.small50, metric.medium50, metric.large50),
        *(speed(one) for one in speeds),
    )


def ap(value: float | None) -> str:
    """Four digits, or a dash where there is no object."""
    return UNKNOWN if value is None else f"{value:.4f}"


def three(*values: float | None) -> str:
    """Small, medium and large; a dash where there is no such object."""
    known = [UNKNOWN if value is None else f"{value:.3f}" for value in values]
    return UNKNOWN if set(known) == {UNKNOWN} else " / ".join(known)


def _protocol(accuracy: Accuracy) -> str:
    metric = accuracy.metric
    return metric.protocol or f"at most {metric.max_detections} detections"


def _evaluated(accuracy: Accuracy) -> str:
    metric = accuracy.metric
    ignored = "objects and detections in ignored regions left out" if metric.ignored else "no ignored regions"
    rules = f"protocol {metric.protocol}: " if metric.protocol else ""
    return (
        f"Evaluator: {metric.evaluator}, {rules}at most {metric.max_detections} detections per image, {ignored}; input "
        f"{_side(accuracy.size)}, confidence {accuracy.confidence:g}, suppression at IoU {accuracy.iou:g}, images by "
        f"{accuracy.images_by}. Small is below 32x32 pixels of the image, large above 96x96."
    )


def _timed(timing: Timing) -> str:
    others = "" if timing.foreign is None else f"; others used {timing.foreign:.0%} of the processors meanwhile"
    return (
        f"FPS with {counted(timing.threads)}: 1 / median latency of one stream, back to back, batch 1, "
        f"{timing.includes}, on {timing.device}; all in turn in one run of {show(timing.duration, 's')}, ratios to "
        f"'{timing.reference}' with {timing.confidence:.0%} intervals{others}."
    )


def _published(row: PaperRow) -> tuple[str, ...]:
    return (
        f"{row.name} ({row.source})",
        *(_as_printed(value) for value in (row.params, row.macs, row.flops)),
        UNKNOWN if row.ap50 is None else f"{row.ap50:.3f}",
        UNKNOWN if row.fps is None else f"{row.fps:g}",
    )


def _as_printed(value: float | None) -> str:
    """With no more digits than were published."""
    if value is None:
        return UNKNOWN
    return f"{value / 1e9:g} G" if value >= 1e9 else f"{value / 1e6:g} M"


def _record(table: CompressionTable, rung: Rung) -> dict[str, Any]:
    accuracy, found = rung.accuracy, rung.difference
    metric = None if accuracy is None else accuracy.metric
    made: dict[str, Any] = {
        "measured": "yes", "name": rung.name, "form": rung.form, "stage": rung.stage, "file": rung.file,
        "sha256": rung.sha256, "file_b": rung.bytes or None, "params": rung.params, "macs": rung.macs,
        "flops": rung.flops, "input_height": rung.size[0], "input_width": rung.size[1], "data": table.data,
        "data_sha256": table.digest, "images": table.images, "objects": table.instances,
    }  # fmt: skip
    for name in ("evaluator", "protocol", "max_detections", "ap50", "ap50_95", "small", "medium", "large"):
        made[name] = None if metric is None else getattr(metric, name)
    for name in ("small50", "medium50", "large50"):
        made[name] = None if metric is None else getattr(metric, name)
    for name in ("ap50", "ap50_95"):
        one = None if found is None else getattr(found, name)
        for part in ("estimate", "low", "high", "confidence"):
            made[f"{name}_difference_{part}"] = None if one is None else getattr(one, part)
    for timing in table.timings:
        fast = next((s for s in rung.speed if s.threads == timing.threads), None)
        of = f"_{timing.threads}_threads"
        made[f"latency{of}_s"] = None if fast is None else fast.latency
        made[f"fps{of}"] = None if fast is None else fast.fps
        for part in ("ratio", "low", "high"):
            made[f"speed_{part}{of}"] = None if fast is None else getattr(fast, part)
        made[f"timed_on{of}"] = None if fast is None else f"{timing.device}; {timing.includes}"
    made["not_measured"] = rung.unmeasured or rung.untimed
    made["doubts"] = " ".join(rung.doubts)
    return made


def _side(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _markdown_table(names: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = [list(map(escaped, names)), ["---"] * len(names), *([escaped(one) for one in line] for line in body)]
    return ["| " + " | ".join(line) + " |" for line in lines]
