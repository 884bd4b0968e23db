"""The report as CSV: a line per measurement, SI units in the names of columns, empty where a number is not known."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from edgedeploy.bench.statistics.quantiles import TooFew, needed
from edgedeploy.report.entry import Entry, Row, rows
from edgedeploy.report.svg import clean

COLUMNS = (
    *("created", "model", "digest", "device", "on", "target", "backend", "precision", "scenario", "rate_hz", "batch"),
    *("threads", "processes", "samples", "p50_s", "p50_low_s", "p50_high_s", "p90_s", "p99_s", "mean_s"),
    *("p90_needs_samples", "p99_needs_samples", "throughput_per_s", "throughput_name", "compute_p50_s"),
    *("cold_start_s", "model_memory_b", "peak_memory_b", "energy_per_inference_j", "accuracy_metric", "accuracy"),
    *("accuracy_difference", "accuracy_difference_low", "accuracy_difference_high", "fingerprint", "doubts", "verdict"),
    *("graph", "real_time_factor", "frame_period_s", "frame_length_s", "lookahead_frames"),
)
#: What a spreadsheet takes for a formula at the begin of a cell.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def table(entries: Sequence[Entry]) -> str:
    """``entries`` under `COLUMNS`, lines ended by CR LF as RFC 4180 has it.

    Text that a spreadsheet would calculate is preceded by an apostrophe.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS)
    writer.writeheader()
    for entry, row in zip(entries, rows(entries), strict=True):
        writer.writerow({key: cell(value) for key, value in {**_conditions(entry), **_numbers(entry, row)}.items()})
    return out.getvalue()


def _conditions(entry: Entry) -> dict[str, object]:
    measurement = entry.measurement
    conditions, place, frames = measurement.conditions, measurement.place, measurement.conditions.frames
    return {
        "created": measurement.created,
        "model": conditions.name,
        "digest": conditions.digest,
        "device": place.device,
        "on": place.on,
        "target": place.target,
        "backend": conditions.backend,
        "scenario": conditions.scenario.name,
        "rate_hz": conditions.scenario.rate,
        "batch": conditions.batch,
        "threads": conditions.threads,
        "processes": len(measurement.processes),
        "fingerprint": measurement.fingerprint(),
        "graph": conditions.graph,
        "frame_period_s": None if frames is None else frames.period,
        "frame_length_s": None if frames is None else frames.length,
        "lookahead_frames": None if frames is None else frames.lookahead,
    }


def _numbers(entry: Entry, row: Row) -> dict[str, object]:
    measurement, known = entry.measurement, row.accuracy
    bounds = (None, None) if isinstance(row.p50_interval, TooFew) else row.p50_interval
    return {
        "precision": row.precision,
        "samples": row.samples,
        "p50_s": row.p50,
        "p50_low_s": bounds[0],
        "p50_high_s": bounds[1],
        "p90_s": row.p90,
        "p99_s": row.p99,
        "mean_s": row.mean,
        "p90_needs_samples": needed(0.9),
        "p99_needs_samples": needed(0.99),
        "throughput_per_s": row.rate.value,
        "throughput_name": row.rate.name,
        "compute_p50_s": measurement.percentile(0.5, "compute"),
        "cold_start_s": measurement.cold_start,
        "model_memory_b": measurement.model_memory,
        "peak_memory_b": row.memory,
        "energy_per_inference_j": row.energy,
        "accuracy_metric": None if known is None else known.name,
        "accuracy": None if known is None else known.value,
        "accuracy_difference": None if known is None else known.difference,
        "accuracy_difference_low": None if known is None else known.low,
        "accuracy_difference_high": None if known is None else known.high,
        "doubts": " ".join(row.doubts),
        "verdict": row.verdict,
        "real_time_factor": measurement.real_time_factor,
    }


def cell(value: object) -> object:
    """A value as a spreadsheet may have it: empty where not known, and text that is no formula."""
    if value is None or isinstance(value, TooFew):
        return ""
    if isinstance(value, str):
        text = clean(value)
        return f"'{text}" if text.startswith(FORMULA) else text
    return value
