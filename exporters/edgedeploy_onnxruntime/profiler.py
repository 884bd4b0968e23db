"""Reads the trace of ONNX Runtime's own profiler: one JSON event per node and pass, in whole microseconds."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedeploy.runtime import NodeTime

#: What the optimiser puts behind the name of the node, or of its output, that a new node stands for.
_ADDED = re.compile(r"(_token_\d+|_nchwc|_nhwc|/duplicated|/\w*Fusion/?)$")
#: What it puts in front of the name of a tensor.
_IN_FRONT = "InsertedPrecisionFreeCast_"
#: The name of a node that the optimiser has added: it stands for nothing in the stored graph.
_NEW = re.compile(r"^(Transpose|ReorderInput|ReorderOutput|Gather|Squeeze|Unsqueeze|Cast)(_token_\d+)?$")
_TYPES = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64", "uint8": "int8"}
_UNITS = {"CPUExecutionProvider": "cpu"}


def node_times(trace: Path, skipped: int) -> tuple[tuple[NodeTime, ...], list[float]]:
    """The nodes in the order they ran, with their medians, and the seconds of each pass that were in nodes.

    The first ``skipped`` passes are left out.
    """
    events = json.loads(trace.read_text("utf-8"))
    passes = _passes(events)[skipped:]
    found: dict[str, list[float]] = {}
    arguments: dict[str, Mapping[str, Any]] = {}
    for each in passes:
        for event in each:
            key = f"{event['args'].get('node_index', '')}:{event['name']}"
            found.setdefault(key, []).append(event["dur"] * 1e-6)
            arguments[key] = event
    # a node inside a loop runs several times in a pass: what counts is what it takes of one
    nodes = tuple(_node(arguments[key], _per_pass(times, len(passes))) for key, times in found.items())
    return nodes, [sum(event["dur"] for event in each) * 1e-6 for each in passes]


def _passes(events: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The node events of each run, by the time spans of the runs."""
    ordered = sorted(events, key=lambda event: float(event.get("ts", 0)))
    runs = [(e["ts"], e["ts"] + e["dur"]) for e in ordered if e.get("cat") == "Session" and e["name"] == "model_run"]
    nodes = [e for e in ordered if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    return [[event for event in nodes if begin <= event["ts"] <= end] for begin, end in runs]


def _per_pass(times: list[float], passes: int) -> float:
    return statistics.median(times) if len(times) <= passes else sum(times) / passes


def _node(event: Mapping[str, Any], seconds: float) -> NodeTime:
    said = event["args"]
    name = str(event["name"]).removesuffix("_kernel_time")
    provider = str(said.get("provider", "CPUExecutionProvider"))
    sizes = [int(said[key]) for key in ("activation_size", "parameter_size", "output_size") if key in said]
    return NodeTime(
        name=name,
        kind=str(said.get("op_name", "unknown")),
        seconds=seconds,
        unit=_UNITS.get(provider, provider),
        covers=stored_names(name),
        dtype=_dtype(said.get("input_type_shape") or said.get("output_type_shape") or []),
        bytes=sum(sizes) if len(sizes) == 3 else None,
    )


def stored_names(name: str) -> tuple[str, ...]:
    """What a node that runs is called in the stored graph, or what its output is; empty for one that was added."""
    if _NEW.match(name):
        return ()
    stripped, last = name, ""
    while stripped != last:
        last, stripped = stripped, _ADDED.sub("", stripped)
    if stripped.startswith(_IN_FRONT) and name.endswith("_nchwc"):
        stripped = stripped.removeprefix(_IN_FRONT)
    return (stripped,)


def _dtype(types: Sequence[Mapping[str, Sequence[int]]]) -> str:
    """Of the largest tensor: the first can be a scale."""
    sized = [(math.prod(shape), kind) for one in types for kind, shape in one.items()]
    kind = max(sized, key=lambda pair: pair[0])[1] if sized else ""
    return _TYPES.get(kind, kind)
