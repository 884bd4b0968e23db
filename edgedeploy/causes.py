"""Why a rung broke, in sentences, and what can be done about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgedeploy.compare import EXACT_SNR, fingerprint, fingerprints_agree, snr
from edgedeploy.drift import STEP, Drift, ModuleDrift, noisiest
from edgedeploy.exporter import FP32_SNR
from edgedeploy.records import to_json
from edgedeploy.rungs import ONNX, PROGRAM, Rung, Subject
from edgedeploy.runtime import Outputs
from edgedeploy.tasks import contract_of
from edgedeploy.tensors import Array

#: A share of values beyond the quantised range that no calibration on the right data leaves.
CLIPPED = 0.01
#: Precisions that have no range to be calibrated.
FLOATS = ("fp32", "fp16", "bf16")
#: Outputs that agree this well (dB) in another place were swapped.
SWAPPED = 20.0
#: More channels than these are not looked at one by one.
MOST_CHANNELS = 512
#: Where noise adds up, so many of the noisiest modules are proposed at a time.
NOISIEST = 3

Kind = Literal["input", "swapped", "overflow", "clipped", "not as written", "precision", "conversion", "not seen"]


@dataclass(frozen=True)
class Finding:
    """One cause.

    Args:
        kind: what kind of cause.
        sentence: what was seen.
        advice: what to do.
        module: where, if in one module.
        keep_float: modules to keep in float.
        export_again: whether exporting again, with those in float and calibrated on the data at hand, can help.
    """

    kind: Kind
    sentence: str
    advice: str
    module: str | None = None
    keep_float: tuple[str, ...] = ()
    export_again: bool = False


def broken_input(subject: Subject, samples: Sequence[Any]) -> str:
    """How the artifact's task contract differs from the checkpoint's, and what it does to a sample; empty if not."""
    theirs, ours = (contract_of(task) for task in (subject.artifact_task, subject.task))
    keys = dict.fromkeys([*ours, *theirs])
    differ = [
        f"{key} is {_shown(theirs.get(key))} in the artifact and {_shown(ours.get(key))} in the checkpoint"
        for key in keys
        if to_json(theirs.get(key)) != to_json(ours.get(key))
    ]
    if differ:
        return "; ".join([*differ, *_prepared_apart(subject, samples)])
    for i, golden in enumerate(one for one in subject.artifact.manifest.golden if one.graph == "main"):
        prepared = subject.artifact_task.prepare(subject.artifact.sample(golden))  # type: ignore[arg-type]
        for stored, tensor in zip(golden.prepared, prepared.tensors, strict=False):
            if not fingerprints_agree(stored, fingerprint(tensor)):
                now, then = (f"mean {f.mean:.4f}, deviation {f.sd:.4f}" for f in (fingerprint(tensor), stored))
                return f"golden sample {i} is prepared otherwise than at export ({now}; then {then})"
    return ""


def _prepared_apart(subject: Subject, samples: Sequence[Any]) -> list[str]:
    """What the two contracts make of the first sample, where that differs."""
    if not samples:
        return []
    pairs = [task.prepare(samples[0]).tensors for task in (subject.artifact_task, subject.task)]
    for theirs, ours in zip(*pairs, strict=False):
        found, wanted = fingerprint(theirs), fingerprint(ours)
        if not fingerprints_agree(wanted, found):
            numbers = [f"mean {f.mean:.4f}, first probes {_probes(f.probes)}" for f in (found, wanted)]
            return [f"the first sample becomes {numbers[0]} instead of {numbers[1]}"]
    return []


def _probes(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values[:3])


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def permuted(pairs: Sequence[tuple[Outputs, Outputs]]) -> str:
    """Which outputs, or channels of one, agree with their reference in another place; empty if that explains nothing.

    Args:
        pairs: per sample, reference and found outputs by name.
    """
    names = list(pairs[0][0])
    order = _order(
        len(names), lambda i, j: min(_snr(reference[names[i]], found[names[j]]) for reference, found in pairs)
    )
    if order is not None:
        moved = [f"'{names[i]}' is in the place of '{names[j]}'" for i, j in enumerate(order) if i != j]
        return f"outputs are swapped: {', '.join(moved)}"
    for name in names:
        moved_channels = _channels([(reference[name], found[name]) for reference, found in pairs])
        if moved_channels:
            return f"channels of '{name}' are swapped: {moved_channels}"
    return ""


def _channels(pairs: Sequence[tuple[Array, Array]]) -> str:
    shape = pairs[0][0].shape
    if len(shape) < 3 or any(a.shape != shape or b.shape != shape for a, b in pairs):
        return ""
    axis = 1 if shape[1] <= shape[-1] else len(shape) - 1
    if not 2 <= shape[axis] <= MOST_CHANNELS:
        return ""
    wanted, found = (
        np.concatenate([np.moveaxis(pair[side], axis, 0).reshape(shape[axis], -1) for pair in pairs], axis=1)
        for side in (0, 1)
    )
    ratios = _ratios(wanted.astype(np.float64), found.astype(np.float64))
    order = _order(shape[axis], lambda i, j: float(ratios[i, j]))
    if order is None:
        return ""
    moved = [f"{i} is in the place of {j}" for i, j in enumerate(order) if i != j]
    return ", ".join(moved[:4]) + (f" and {len(moved) - 4} more" if len(moved) > 4 else "")


def _ratios(wanted: Array, found: Array) -> Array:
    """SNR (dB) of every found row for every wanted one."""
    if not (np.isfinite(wanted).all() and np.isfinite(found).all()):
        return np.full((len(wanted), len(found)), -EXACT_SNR)
    signal = np.sum(wanted**2, axis=1)
    noise = np.maximum(signal[:, None] + np.sum(found**2, axis=1)[None] - 2 * np.inner(wanted, found), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Array = np.nan_to_num(10 * np.log10(signal[:, None] / noise), nan=EXACT_SNR, posinf=EXACT_SNR)
    return ratio


def _order(count: int, ratio: Any) -> list[int] | None:
    """Where each reference is found, if each is in one place, some of them better than in their own; else ``None``."""
    order = []
    for i in range(count):
        row = [ratio(i, j) for j in range(count)]
        own, best = row[i], int(np.argmax(row))
        order.append(best if row[best] > max(SWAPPED, own + STEP) else i)
        if row[order[-1]] < SWAPPED:
            return None
    return order if sorted(order) == list(range(count)) and order != list(range(count)) else None


def _snr(reference: Array, found: Array) -> float:
    return snr(reference, found) if reference.shape == found.shape else -EXACT_SNR


def explain(subject: Subject, rungs: Sequence[Rung], drift: Drift | None) -> tuple[Finding, ...]:
    """The causes, most telling first; nothing where every rung held."""
    broken = next((rung for rung in rungs if rung.state == "broke"), None)
    if broken is None:
        return ()
    if broken.name == "input":
        advice = "Export again from this checkpoint, or give the one that the bundle was made from."
        return (Finding("input", f"{broken.seen}.", advice, export_again=True),)
    if broken.swapped:
        advice = "Export again; if it stays so, the converter orders them otherwise, and the caller has to know."
        return (Finding("swapped", f"In {broken.name} {broken.swapped}.", advice, export_again=True),)
    if drift is None:
        return (_not_seen(broken, rungs),)
    if not drift.repeats:
        sentence = f"{drift.rung} is right when its inside is shown: an optimisation that fuses layers is at fault."
        return (Finding("conversion", sentence, "Turn the runtime's graph optimisation off, or use another version."),)
    lowered = subject.precision != "fp32" and drift.rung not in (PROGRAM, ONNX)
    clipped = _clipped(drift) if lowered and subject.precision not in FLOATS else None
    if clipped is not None:
        return (clipped,)
    if drift.begins is not None and drift.begins.nonfinite and lowered:
        return (_overflow(subject, drift, drift.begins),)
    again = _made_again(rungs, drift)
    if again is not None:
        return (_not_as_written(subject, again, drift),)
    return (_precision(subject, drift) if lowered else _conversion(drift),)


def _where(row: ModuleDrift) -> str:
    return f"{row.module} (with {row.fused} fused)" if row.fused else row.module


def _numbers(drift: Drift) -> str:
    """SNR at the module where it begins, and before."""
    assert drift.begins is not None
    before = "the input" if drift.before is None else f"{drift.before.snr:.0f} dB at {_where(drift.before)}"
    return f"{drift.begins.snr:.0f} dB after {before}"


def _clipped(drift: Drift) -> Finding | None:
    row = next((row for row in drift.modules if row.clipped >= CLIPPED), None)
    if row is None or (drift.begins is not None and drift.modules.index(row) > drift.modules.index(drift.begins)):
        return None
    sentence = (
        f"{row.clipped:.0%} of the values at {_where(row)} lie outside the range that they were quantised with, and "
        f"are clipped to its ends: SNR {row.snr:.0f} dB."
    )
    advice = "Calibrate on images like the device's: its camera, its light, its exposure."
    return Finding("clipped", sentence, advice, row.module, export_again=True)


def _overflow(subject: Subject, drift: Drift, row: ModuleDrift) -> Finding:
    sentence = f"{row.nonfinite} values at {_where(row)} are NaN or infinite in {subject.precision}, none in FP32."
    whole = row.module.rpartition(".")[0] or row.module  # who reads them has to be in fp32 as well
    return Finding("overflow", sentence, f"Keep {whole} in fp32.", row.module, (whole,), export_again=True)


def _made_again(rungs: Sequence[Rung], drift: Drift) -> Rung | None:
    """The last form that held before the broken artifact, if the same runtime ran it: then only the file differs."""
    artifact = rungs[-1]
    before = [rung for rung in rungs[:-1] if rung.agreement]
    if drift.rung != artifact.name or not before or before[-1].state != "held" or before[-1].by != artifact.by:
        return None
    return before[-1]


def _not_as_written(subject: Subject, again: Rung, drift: Drift) -> Finding:
    sentence = (
        f"The exporter's own steps, made again ({again.name}), reproduce the reference; the artifact does not, so it "
        "is not what they write"
    )
    if subject.precision == "int8":
        sentence += ", or its ranges are not those of these samples"
    if drift.begins is None:
        return Finding("not as written", f"{sentence}.", "Export again.", export_again=True)
    sentence += f". It goes wrong at {_where(drift.begins)}: {_numbers(drift)}."
    return Finding("not as written", sentence, "Export again.", drift.begins.module, export_again=True)


def _precision(subject: Subject, drift: Drift) -> Finding:
    if drift.begins is None:
        sentence = f"No module loses much in {subject.precision}, but the results change."
        return Finding("precision", sentence, "Export in a higher precision.")
    if drift.sharp:
        sentence = f"{subject.precision} ruins {_where(drift.begins)}: {_numbers(drift)}."
        return Finding("precision", sentence, "Keep it in float.", drift.begins.module, _keep(drift.begins), True)
    rows = noisiest(drift.modules, subject.precision, NOISIEST)
    most = f"most at {_where(drift.begins)} ({_numbers(drift)})"
    sentence = f"No single module: the noise of {subject.precision} adds up, {most}."
    keep = tuple(dict.fromkeys(name for row in rows for name in _keep(row)))
    return Finding("precision", sentence, f"Keep {', '.join(keep)} in float.", drift.begins.module, keep, True)


def _conversion(drift: Drift) -> Finding:
    advice = "Try another opset, another version of the converter, or another backend."
    if drift.begins is None:
        sentence = f"{drift.rung} goes wrong after the last module that can be seen."
        return Finding("conversion", sentence, advice)
    sentence = f"{drift.rung} computes {_where(drift.begins)} wrong: {_numbers(drift)}, {FP32_SNR:.0f} dB expected."
    return Finding("conversion", sentence, advice, drift.begins.module)


def _not_seen(broken: Rung, rungs: Sequence[Rung]) -> Finding:
    held = [rung for rung in rungs[: rungs.index(broken)] if rung.state == "held" and rung.agreement]
    sentence = f"{broken.name} does not show what is inside"
    if not broken.agreement:
        sentence = f"{broken.name} does not run: {broken.seen.rstrip('.')}"
    if held and broken.agreement and held[-1].lossy:
        sentence += f"; {held[-1].name}, made again with ranges from these samples, holds."
        advice = "Calibrate on images like the device's, and export again."
        return Finding("not seen", sentence, advice, export_again=True)
    after = f"; the last form that holds is {held[-1].name}" if held else ""
    return Finding("not seen", f"{sentence}{after}.", "Compare with another backend to narrow it down.")


def _keep(row: ModuleDrift) -> tuple[str, ...]:
    return (row.module, row.fused) if row.fused else (row.module,)
