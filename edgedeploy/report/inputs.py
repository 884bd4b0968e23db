"""What a report is made of, read from files that other commands have written, or from the history."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgedeploy.archive import open_artifact
from edgedeploy.bench.bundle import digest_of
from edgedeploy.bench.measurement import Measurement
from edgedeploy.bench.versus import Versus
from edgedeploy.comparison import Comparison
from edgedeploy.errors import EdgeDeployError, Incompatible, UsageError
from edgedeploy.history import History
from edgedeploy.predict.prediction import Prediction
from edgedeploy.records import from_json
from edgedeploy.report.entry import Accuracy, Entry
from edgedeploy.report.roofs import Explained
from edgedeploy.verdict import Verdict

#: What follows the name of a bundle in the name of its log.
LOG = ".bench.jsonl"


@dataclass
class Given:
    """Entries in the order of the files, what else they hold, and sentences about what could not be used."""

    entries: list[Entry] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    explained: list[Explained] = field(default_factory=list)
    versus: list[Versus] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def from_files(paths: Sequence[Path]) -> Given:
    """Everything in ``paths``: logs of ``bench`` and exports of the history (a measurement per line), and what
    ``bench``, ``compare``, ``why`` and ``predict`` print with ``--json``.

    A line that is torn, or of another schema, is left out and noted. Accuracy joins the measurements of the same graphs
    where the bundle that it was taken of is still in its place.

    Raises:
        UsageError: a file cannot be read, or nothing in it is known.
    """
    given = Given()
    compared: list[Comparison] = []
    for path in paths:
        precision = _precisions(path)
        used = 0
        for where, plain in _documents(path, given.notes):
            try:
                used += _take(plain, where, given, compared, precision)
            except Incompatible as error:
                given.notes.append(str(error))
        if not used:
            raise UsageError(
                f"{path} holds nothing for a report: no measurement, comparison, explanation or prediction."
            )
    known: dict[str, Accuracy] = {}
    for comparison in compared:
        digest, accuracy = _digest(Path(comparison.artifact), comparison.artifact_digest), Accuracy.of(comparison)
        if digest is None or accuracy is None:
            given.notes.append(f"The accuracy of {comparison.artifact} is left out: that bundle is no longer there.")
        else:
            known[digest] = accuracy
    given.entries = [replace(e, accuracy=known.get(e.measurement.conditions.digest)) for e in given.entries]
    return given


def from_history(history: History, model: str | None, device: str | None, last: int) -> Given:
    """The ``last`` newest measurements of the history that fit, oldest first, with the accuracy of their bundles.

    Raises:
        UsageError, Incompatible: see `History`.
    """
    found = history.find(model=model, device=device, limit=last)
    return Given([Entry(history.load(row.id), _remembered(history, row.bundle), row.precision) for row in found])


def _remembered(history: History, bundle: str | None) -> Accuracy | None:
    """What the last comparison of a bundle found."""
    compared = () if bundle is None else history.accuracies(bundle=bundle, limit=1)
    return Accuracy.remembered(compared[-1]) if compared else None


def _documents(path: Path, notes: list[str]) -> Iterator[tuple[str, Any]]:
    """The JSON documents of a file: the whole of it, or one per line, with where they stand."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text, and nothing that a report is made of.") from None
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    plain = _parsed(line)
                except (ValueError, RecursionError):
                    notes.append(f"{path}, line {number} is torn, and left out.")
                else:
                    yield f"{path}, line {number}", plain
        return
    try:
        yield str(path), _parsed(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON ({error}).") from error


def _parsed(text: str) -> Any:
    """JSON whose strings are text: half of a surrogate pair is none, and has no digest either."""
    plain = json.loads(text)
    json.dumps(plain, ensure_ascii=False).encode()
    return plain


def _take(plain: Any, where: str, given: Given, compared: list[Comparison], precision: Mapping[str, str]) -> int:
    """Sort one document in by its keys; how many were known."""
    if not isinstance(plain, dict):
        return 0
    if "comparison" in plain:
        compared.append(from_json(Comparison, plain["comparison"], f"{where}: comparison"))
    elif isinstance(plain.get("predictions"), list):
        given.predictions += [from_json(Prediction, one, f"{where}: predictions") for one in plain["predictions"]]
    elif "roofs" in plain and "causes" in plain:
        given.explained.append(Explained.of(plain, where))
    elif isinstance(plain.get("versus"), dict):
        given.versus.append(Versus.from_json(plain["versus"], f"{where}: versus"))
    elif "blocks" in plain and "second" in plain:
        given.versus.append(Versus.from_json(plain, where))
    elif isinstance(plain.get("measurement"), dict):
        verdicts = plain.get("verdicts")
        listed = verdicts if isinstance(verdicts, list) else []
        said = [from_json(Verdict, one, f"{where}: verdicts") for one in listed]
        _add(Measurement.from_json(plain["measurement"], f"{where}: measurement"), given, precision, tuple(said))
    elif "processes" in plain:
        _add(Measurement.from_json(plain, where), given, precision, ())
    else:
        return 0
    return 1


def _add(measurement: Measurement, given: Given, precision: Mapping[str, str], verdicts: tuple[Verdict, ...]) -> None:
    given.entries.append(Entry(measurement, None, precision.get(measurement.conditions.digest), verdicts))


def _precisions(path: Path) -> dict[str, str]:
    """The precision of the bundle that a log stands beside, by its digest."""
    if not path.name.endswith(LOG):
        return {}
    for suffix in (".edge", ".edge.zip"):
        bundle = path.with_name(path.name.removesuffix(LOG) + suffix)
        try:
            artifact = open_artifact(bundle)
        except EdgeDeployError:
            continue
        return {digest_of(artifact): artifact.manifest.exporter.precision}
    return {}


def _digest(bundle: Path, digest: str) -> str | None:
    """What measurements call the bundle that others call ``digest``; ``None`` where it is gone, or another by now."""
    try:
        artifact = open_artifact(bundle)
    except EdgeDeployError:
        return None
    return digest_of(artifact) if artifact.digest == digest else None
