"""Where the time goes and what to do, as a short list: each cause with its share of a pass, longest first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edgedeploy.roofline.join import TINY, NodeRoof, Roofline
from edgedeploy.roofline.roofs import percent
from edgedeploy.units import show

Kind = Literal[
    "compute", "memory", "slow", "reformatting", "conversion", "dispatch", "fallback", "float", "unknown", "suspicious"
]

#: Causes with less than this share of a pass are not told.
WORTH = 0.01
#: Above this share of the dense peak an engine's node is doubted; a processor's above 1 and what repeats differ by.
ENGINE_LIMIT, PROCESSOR_LIMIT = 0.6, 1.05
#: Kernels work on so many channels at a time, or on a multiple.
LANES = 8
#: Kernels that reach this share of the dense peak are good ones.
GOOD = 0.6


@dataclass(frozen=True)
class Cause:
    """One reason.

    Args:
        kind: which.
        share: of the time of a pass.
        sentence: what was seen.
        remedy: what can be done.
        nodes: those with the most time.
    """

    kind: Kind
    share: float
    sentence: str
    remedy: str
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Subject:
    """What remedies depend on besides the roofline: the precision that was asked for, and what was kept in float."""

    precision: str = "fp32"
    kept_in_float: tuple[str, ...] = ()
    batch: int = 1
    facts: Mapping[str, str | int | float] = field(default_factory=dict)


def causes(roofline: Roofline, subject: Subject | None = None) -> tuple[Cause, ...]:
    """Every cause worth telling, by its share; what makes the numbers themselves doubtful comes first."""
    subject = subject or Subject()
    groups = _groups(roofline, subject)
    tellers: Mapping[str, Callable[[Sequence[NodeRoof], Roofline, Subject], tuple[str, str]]] = {
        "compute": _compute,
        "memory": _memory,
        "slow": _slow,
        "reformatting": _reformatting,
        "conversion": _conversion,
        "dispatch": _dispatch,
        "fallback": _fallback,
        "float": _float,
        "unknown": _unknown,
    }
    found = []
    for kind, teller in tellers.items():
        nodes = sorted(groups.get(kind, ()), key=lambda node: -node.seconds)
        seconds = sum(node.seconds for node in nodes) + (roofline.outside if kind == "dispatch" else 0.0)
        if seconds / roofline.whole >= WORTH:
            sentence, remedy = teller(nodes, roofline, subject)
            top = tuple(node.name for node in nodes[:3])
            found.append(Cause(kind, seconds / roofline.whole, sentence, remedy, top))  # type: ignore[arg-type]
    ranked = sorted(found, key=lambda cause: -cause.share)
    return (*_suspicious(roofline), *ranked)


def _groups(roofline: Roofline, subject: Subject) -> dict[str, list[NodeRoof]]:
    """Every node in one group: where it ran counts before what it computed in, and that before what bounds it."""
    main = _main_unit(roofline.nodes)
    groups: dict[str, list[NodeRoof]] = {}
    for node in roofline.nodes:
        if node.unit != main:
            key = "fallback"
        elif subject.precision == "int8" and node.multiplies and node.dtype in ("fp32", "fp16", "bf16"):
            key = "float"
        else:
            key = node.bound
        groups.setdefault(key, []).append(node)
    return groups


def _main_unit(nodes: Sequence[NodeRoof]) -> str:
    """The unit that multiplies most of the time: what the export was for."""
    times: dict[str, float] = {}
    for node in [node for node in nodes if node.multiplies] or nodes:
        times[node.unit] = times.get(node.unit, 0.0) + node.seconds
    return max(times, key=lambda unit: times[unit], default="")


# --- the sentences -------------------------------------------------------------------------------------------------


def _compute(nodes: Sequence[NodeRoof], roofline: Roofline, subject: Subject) -> tuple[str, str]:
    parts, least = [], 1.0
    for dtype in sorted({node.dtype for node in nodes}):
        group = [node for node in nodes if node.dtype == dtype]
        reached = sum(node.flops or 0 for node in group) / sum(node.seconds for node in group)
        part = _mean(group, lambda node: node.of_peak)
        least = min(least, part)
        parts.append(f"{show(reached, _rate(dtype))}, {percent(part)} of the dense {dtype} peak")
    sentence = f"Arithmetic bounds {_count(nodes, 'node')} ({_kinds(nodes)}): {'; '.join(parts)}."
    odd = _odd(nodes)
    if odd is not None:
        return f"{sentence} {odd}", f"Round channels to a multiple of {LANES}: kernels work on so many at a time."
    lower = "" if subject.precision == "int8" else f", or int8 instead of {subject.precision}"
    if least >= GOOD:
        return (
            sentence,
            f"These kernels leave little to gain: fewer operations (a smaller input, fewer channels){lower}.",
        )
    batch = ", more samples in a pass" if subject.batch == 1 else ""
    return sentence, f"Fewer, larger layers come nearer to the peak{batch}; else fewer operations{lower}."


def _memory(nodes: Sequence[NodeRoof], roofline: Roofline, subject: Subject) -> tuple[str, str]:
    moved = sum(node.bytes or 0 for node in nodes)
    rate = show(moved / sum(node.seconds for node in nodes), "B/s")
    reached = _mean(nodes, lambda node: node.of_bandwidth)
    cached = " (beyond 100 % they come out of a cache)" if reached > 1 else ""
    sentence = (
        f"Memory bounds {_count(nodes, 'node')} ({_kinds(nodes)}): {show(moved, 'B')} at {rate}, {percent(reached)} of "
        f"the bandwidth{cached}. Fewer operations change nothing there."
    )
    smaller = "a lower precision" if subject.precision == "fp32" else "a smaller input"
    fuse = "fuse activations into the layer before them, fewer and wider layers in place of depthwise ones"
    return sentence, f"Move fewer bytes: {fuse}, {smaller}."


def _slow(nodes: Sequence[NodeRoof], roofline: Roofline, subject: Subject) -> tuple[str, str]:
    best = max(max(node.of_peak or 0.0, node.of_bandwidth or 0.0) for node in nodes)
    sentence = f"Neither roof explains {_count(nodes, 'node')} ({_kinds(nodes)}): {percent(best)} of one is the most."
    odd = _odd(nodes)
    if odd is not None:
        return (
            f"{sentence} {odd}",
            f"Round channels to a multiple of {LANES}: that gives the time back that pruning did not.",
        )
    if any(node.multiplies for node in nodes):
        return (
            sentence,
            "Few channels, groups or rows do not fill a kernel: fewer, wider layers; or try another runtime.",
        )
    return sentence, f"The kernels are weak here: try another runtime, or write {nodes[0].kind} another way."


def _reformatting(nodes: Sequence[NodeRoof], roofline: Roofline, subject: Subject) -> tuple[str, str]:
    sentence = f"{_count(nodes, 'node')} ({_kinds(nodes)}) only bring tensors into another layout, for the next kernel."
    remedy = (
        f"They stand where layouts change: make channels a multiple of {2 * LANES}, and avoid Split, Concat, Reshape "
    )
    return sentence, remedy + "and layers without such a kernel between convolutions."


def _conversion(nodes: Sequence[NodeRoof], roofline: Roofline, subject: Subject) -> tuple[str, str]:
    sentence = f"{_count(nodes, 'node')} ({_kinds(nodes)}) only change the type of tensors."
    if subject.precision == "int8":
        kept = _names(subject.kept_in_float, "modules kept in float") or "operators in float"
        return sentence, (
            f"They stand around {kept}. Every border costs: let int8 regions be few and large, by quantising what lies "
            "between, or by keeping a whole block in float (--option keep_float)."
        )
    if subject.precision == "fp16":
        return sentence, "This unit computes in fp32 there, for want of fp16 kernels: export fp32 or int8 for it."
    return sentence, "Give inputs in the type that the first layer takes, and leave one type throughout."


def _dispatch(nodes: Sequence[NodeRoof], roofline: Roofline, subject: Subject) -> tuple[str, str]:
    words = []
    if nodes:
        took = show(sum(node.seconds for node in nodes), "s")
        words.append(f"{_count(nodes, 'node takes', 'nodes take')} less than {show(TINY, 's')} each, {took} together")
    if roofline.outside > WORTH * roofline.whole:
        words.append(f"{show(roofline.outside, 's')} of a pass are in no node: the runtime's own work")
    sentence = f"Dispatch: {'; '.join(words)}."
    remedy = "Fewer, larger layers: fuse, fold constants, merge parallel branches"
    return sentence, f"{remedy}; or export with a batch." if subject.batch == 1 else f"{remedy}."


def _fallback(nodes: Sequence[NodeRoof], roofline: Roofline, subject: Subject) -> tuple[str, str]:
    units = ", ".join(sorted({node.unit for node in nodes}))
    main = _main_unit(roofline.nodes)
    sentence = f"{_count(nodes, 'node')} ({_kinds(nodes)}) fell back to {units}; the rest runs in {main}."
    return sentence, f"Write these with operators that {main} takes, or move them out of the graph, behind its output."


def _float(nodes: Sequence[NodeRoof], roofline: Roofline, subject: Subject) -> tuple[str, str]:
    multiplying = [node for node in roofline.nodes if node.multiplies]
    types = ", ".join(sorted({node.dtype for node in nodes}))
    if len(nodes) == len(multiplying):
        sentence = f"The bundle is int8, but all {_count(nodes, 'node')} that multiply compute in {types}."
        return sentence, "The runtime has no int8 kernels for what was quantised this way: export for this device."
    sentence = f"int8 leaves {len(nodes)} of {len(multiplying)} nodes that multiply in {types}."
    if subject.kept_in_float:
        kept = _names(subject.kept_in_float, "modules")
        return (
            sentence,
            f"The export kept {kept} in float for accuracy; exporter.decisions in artifact.json has them all.",
        )
    return sentence, "Their weights or their outputs are not quantised: see where Q/DQ stand around them."


def _unknown(nodes: Sequence[NodeRoof], roofline: Roofline, subject: Subject) -> tuple[str, str]:
    sentence = f"Of {_count(nodes, 'node')} ({_kinds(nodes)}) it is not known which roof bounds them: "
    if roofline.cost is None:
        return (
            sentence + "what they cost is not in the files.",
            "See the shares of kinds; or export the model to ONNX, too.",
        )
    counted = [node for node in nodes if node.flops]
    missing = sorted({node.dtype or "their type" for node in counted if roofline.roofs.peak(node.dtype) is None})
    if missing or roofline.roofs.bandwidth.si is None:
        what = [f"the peak in {dtype}" for dtype in missing]
        what += ["the bandwidth"] if roofline.roofs.bandwidth.si is None else []
        return (
            f"{sentence}{' and '.join(what)} of {roofline.roofs.device} is unknown.",
            "Measure it with 'edgedeploy devices probe -o NAME.yaml', and give that file as --device.",
        )
    return sentence + "no stored node is known for them, or its operator is not counted.", "See their times."


def _suspicious(roofline: Roofline) -> Iterator[Cause]:
    limit = ENGINE_LIMIT if roofline.roofs.engine else PROCESSOR_LIMIT
    doubted = [n for n in roofline.nodes if (n.of_peak or 0.0) > limit and n.seconds > WORTH * roofline.whole]
    if not doubted:
        return
    worst = max(doubted, key=lambda node: node.of_peak or 0.0)
    yield Cause(
        "suspicious",
        sum(node.seconds for node in doubted) / roofline.whole,
        f"{worst.name} seems to reach {percent(worst.of_peak or 0.0)} of the dense {worst.dtype} peak. More than "
        f"{percent(limit)} is not to be believed: the peak is too low, or the kernel computes less than is counted.",
        "Measure the peak again with nothing else running (edgedeploy devices probe); until then shares are too high.",
        tuple(node.name for node in doubted[:3]),
    )


# --- words and numbers ---------------------------------------------------------------------------------------------


def _rate(dtype: str) -> str:
    return "OP/s" if dtype.startswith("int") else "FLOP/s"


def _odd(nodes: Sequence[NodeRoof]) -> str | None:
    """What is to be said of channels that no kernel likes, where they matter."""
    odd = [node for node in nodes if any(count % LANES for count in node.channels)]
    if sum(node.seconds for node in odd) < 0.1 * sum(node.seconds for node in nodes):
        return None
    example = max(odd, key=lambda node: node.seconds)
    counted = _count(odd, "of them has", "of them have")
    return f"{counted} channels that are no multiple of {LANES} ({example.name}: {example.channels[0]})."


def _mean(nodes: Sequence[NodeRoof], share: Callable[[NodeRoof], float | None]) -> float:
    """Over their time."""
    return sum((share(node) or 0.0) * node.seconds for node in nodes) / max(sum(n.seconds for n in nodes), 1e-12)


def _kinds(nodes: Sequence[NodeRoof]) -> str:
    counted = Counter(node.kind for node in nodes).most_common()
    words = [f"{count} {kind}" for kind, count in counted[:3]]
    return ", ".join([*words, "..."] if len(counted) > 3 else words)


def _count(nodes: Sequence[NodeRoof], one: str, several: str | None = None) -> str:
    return f"{len(nodes)} {one if len(nodes) == 1 else several or f'{one}s'}"


def _names(names: Sequence[str], what: str) -> str:
    """``7 modules kept in float (a, b, c, ...)``; empty where there are none."""
    if not names:
        return ""
    return f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
