"""What a history keeps, and the questions it answers."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edgedeploy.accuracy import Accuracy, Equivalence, PairedDifference
from edgedeploy.archive import open_artifact
from edgedeploy.artifact import SUFFIX
from edgedeploy.bench.doubts import doubts
from edgedeploy.bench.measurement import Measurement
from edgedeploy.bench.statistics.quantiles import TooFew
from edgedeploy.errors import EdgeDeployError, UsageError, did_you_mean
from edgedeploy.history.database import opened
from edgedeploy.history.lines import write_lines
from edgedeploy.records import canonical, to_json

#: How many earlier measurements are handed to `edgedeploy.bench.doubts.doubts`.
EARLIER = 8
#: What an id is below.
MOST = (1 << 63) - 1

T = TypeVar("T")


@dataclass(frozen=True)
class Origin:
    """What a measurement does not say of its artifact: digest of the ``bundle`` that it was in, its ``precision``, and
    sha256 of its ``checkpoint``.
    """

    bundle: str | None = None
    precision: str | None = None
    checkpoint: str | None = None


@dataclass(frozen=True)
class Row:
    """A measurement as it is listed. Times are seconds end to end; ``low`` and ``high`` bound the median.

    ``artifact`` is the digest of what ran (graphs and task), equal for two exports with the same outcome; ``bundle``
    that of the one bundle, by which comparisons are found. ``reached`` and ``target`` are ``on`` and ``target`` of the
    measurement's place; ``machine`` is the digest of the environment's; ``doubts`` counts the doubts when it was taken.
    What its samples did not support is ``None``, and so is what nobody said.
    """

    id: int
    model: str
    artifact: str
    bundle: str | None
    device: str
    reached: str
    target: str | None
    machine: str
    backend: str
    precision: str | None
    scenario: str
    fingerprint: str
    created: str
    median: float
    low: float | None
    high: float | None
    p90: float | None
    count: int
    doubts: int


@dataclass(frozen=True)
class AccuracyRow:
    """A comparison as it is listed: AP50-95 of the artifact and of its FP32 ``reference``, their difference with its
    interval, on ``images`` images of ``data``. ``bundle`` and ``checkpoint`` are digests.
    """

    id: int
    model: str
    bundle: str
    checkpoint: str
    data: str
    data_digest: str
    images: int
    created: str
    ap50_95: float | None
    reference: float | None
    difference: float
    low: float
    high: float
    outcome: str
    doubts: int


class ComparisonLike(Protocol):
    """What `History.record_comparison` reads of an `edgedeploy.comparison.Comparison`."""

    @property
    def artifact(self) -> str: ...
    @property
    def artifact_digest(self) -> str: ...
    @property
    def reference(self) -> Accuracy: ...
    @property
    def candidate(self) -> Accuracy: ...
    @property
    def difference(self) -> PairedDifference: ...
    @property
    def equivalence(self) -> Equivalence: ...
    @property
    def doubts(self) -> tuple[str, ...]: ...


def default_path() -> Path:
    """``EDGEDEPLOY_HISTORY``, else ``edgedeploy/history.db`` in the user's data folder."""
    named = os.environ.get("EDGEDEPLOY_HISTORY")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "edgedeploy" / "history.db"


class History:
    """The history at ``path``. It holds no open file: every call opens it, and closes it again.

    Every method raises:
        UsageError: the file cannot be read or written, is damaged, or is no history; it is never overwritten.
        Incompatible: a newer edgedeploy has written it.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_path()

    def record(self, measurement: Measurement, origin: Origin | None = None, doubts: int = 0) -> int:
        """Keep a measurement, whole; its id. ``doubts`` is how many there were."""
        between, p90 = measurement.interval(), measurement.percentile(0.9)
        low, high = (None, None) if isinstance(between, TooFew) else between
        conditions, place, origin = measurement.conditions, measurement.place, origin or Origin()
        values = {
            "model": conditions.name,
            "artifact": conditions.digest,
            "bundle": origin.bundle,
            "device": place.device,
            "reached": place.on,
            "target": place.target,
            "machine": measurement.environment.machine,
            "backend": conditions.backend,
            "precision": origin.precision,
            "scenario": conditions.scenario.name,
            "fingerprint": measurement.fingerprint(),
            "created": measurement.created,
            "median": measurement.latency,
            "low": low,
            "high": high,
            "p90": None if isinstance(p90, TooFew) else p90,
            "count": measurement.count,
            "doubts": doubts,
            "record": _packed(measurement),
        }
        return self._insert("measurement", values)

    def record_comparison(self, comparison: ComparisonLike, created: str | None = None) -> int:
        """Keep what `edgedeploy.comparison.compare` found; its id. ``created`` is now where ``None``."""
        candidate, difference = comparison.candidate, comparison.difference.ap50_95
        values = {
            "model": Path(comparison.artifact).name.partition(SUFFIX)[0],
            "bundle": comparison.artifact_digest,
            "checkpoint": comparison.reference.model,
            "data": candidate.data,
            "data_digest": candidate.data_digest,
            "images": candidate.metric.images,
            "created": created or now().isoformat(timespec="seconds"),
            "ap50_95": candidate.metric.ap50_95,
            "reference": comparison.reference.metric.ap50_95,
            "difference": difference.estimate,
            "low": difference.low,
            "high": difference.high,
            "outcome": comparison.equivalence.outcome,
            "doubts": len(comparison.doubts),
            "record": _packed(comparison),
        }
        return self._insert("comparison", values)

    def find(
        self,
        *,
        model: str | None = None,
        device: str | None = None,
        artifact: str | None = None,
        backend: str | None = None,
        scenario: str | None = None,
        since: datetime.datetime | None = None,
        limit: int | None = None,
    ) -> tuple[Row, ...]:
        """The measurements that all given filters let pass, oldest first; of more than ``limit`` the newest.

        ``device`` is a device, the name of a target, or how it was reached; ``artifact`` a digest, of a bundle or of
        what ran, or how one begins.
        """
        wanted: list[tuple[str, Any]] = [
            ("model = ?", model),
            ("? IN (device, target, reached)", device),
            ("?1 IN (substr(artifact, 1, length(?1)), substr(bundle, 1, length(?1)))", artifact),
            ("backend = ?", backend),
            ("scenario = ?", scenario),
            ("created >= ?", None if since is None else since.astimezone(datetime.UTC).isoformat(timespec="seconds")),
        ]
        return self._rows(Row, "measurement", wanted, limit)

    def accuracies(
        self, *, model: str | None = None, bundle: str | None = None, limit: int | None = None
    ) -> tuple[AccuracyRow, ...]:
        """The comparisons of a model or of a bundle (its digest, or how it begins), oldest first."""
        wanted = [("model = ?", model), ("substr(bundle, 1, length(?1)) = ?1", bundle)]
        return self._rows(AccuracyRow, "comparison", wanted, limit)

    def load(self, number: int) -> Measurement:
        """The measurement with this id.

        Raises:
            UsageError: there is none.
        """
        with opened(self.path) as db:
            found = db.execute("SELECT record FROM measurement WHERE id = ?", (min(number, MOST),)).fetchone()
        if found is None:
            raise UsageError(f"{self.path} has no measurement {number}. 'edgedeploy history' lists what it has.")
        return _unpacked(found[0], f"measurement {number} of {self.path}")

    def earlier(self, measurement: Measurement, most: int = EARLIER) -> tuple[Measurement, ...]:
        """The last measurements of the same artifact under the same conditions, oldest first; unreadable ones are
        passed over.
        """
        query = "SELECT record FROM measurement WHERE artifact = ? AND fingerprint = ? ORDER BY id DESC LIMIT ?"
        with opened(self.path) as db:
            digest, fingerprint = measurement.conditions.digest, measurement.fingerprint()
            blobs = [blob for (blob,) in db.execute(query, (digest, fingerprint, most))]
        found = []
        for blob in reversed(blobs):
            with contextlib.suppress(EdgeDeployError):
                found.append(_unpacked(blob, str(self.path)))
        return tuple(found)

    def export(self, numbers: Sequence[int], path: Path) -> None:
        """Write these measurements to ``path`` as JSON lines, in one step: a file that is there is replaced.

        Raises:
            UsageError: an id that is not there, or ``path`` cannot be written.
        """
        write_lines([self.load(number) for number in numbers], path)

    def prune(self, before: datetime.datetime) -> int:
        """Delete what was recorded before then, but for baselines, and give the space back; how many there were."""
        then = before.astimezone(datetime.UTC).isoformat(timespec="seconds")
        with opened(self.path, create=True) as db:
            old = "DELETE FROM measurement WHERE created < ? AND id NOT IN (SELECT measurement FROM baseline)"
            gone = db.execute(old, (then,)).rowcount
            gone += db.execute("DELETE FROM comparison WHERE created < ?", (then,)).rowcount
            db.execute("VACUUM")
        return gone

    def set_baseline(self, name: str, number: int) -> None:
        """Let ``name`` mean the measurement with this id from now on.

        Raises:
            UsageError: there is no such measurement, or the name could be taken for an id or a file.
        """
        if not name or name.isdigit() or "/" in name or name.endswith(".jsonl"):
            raise UsageError(f"A baseline cannot be called '{name}', which reads as an id or a file: take a word.")
        self.load(number)
        with opened(self.path, create=True) as db:
            db.execute("INSERT OR REPLACE INTO baseline (name, measurement) VALUES (?, ?)", (name, number))

    def baselines(self) -> dict[str, int]:
        """The names of baselines, and the id that each means."""
        with opened(self.path) as db:
            return dict(db.execute("SELECT name, measurement FROM baseline ORDER BY name").fetchall())

    def baseline(self, name: str) -> int:
        """The id that ``name`` means.

        Raises:
            UsageError: nothing has this name.
        """
        known = self.baselines()
        if name not in known:
            advice = did_you_mean(name, known) or " 'edgedeploy history baseline NAME ID' makes one."
            raise UsageError(f"There is no baseline '{name}' in {self.path}.{advice}")
        return known[name]

    def _insert(self, table: str, values: dict[str, Any]) -> int:
        marks = ", ".join(f":{name}" for name in values)
        with opened(self.path, create=True) as db:
            done = db.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", values)
            return int(done.lastrowid or 0)

    def _rows(self, kind: type[T], table: str, wanted: Sequence[tuple[str, Any]], limit: int | None) -> tuple[T, ...]:
        asked = [(text, value) for text, value in wanted if value is not None]
        clauses, values = [], []
        for number, (text, value) in enumerate(asked, 1):
            clauses.append(text.replace("?1", "?").replace("?", f"?{number}"))
            values.append(value)
        columns = ", ".join(field.name for field in fields(kind))  # type: ignore[arg-type]
        where = f" WHERE {' AND '.join(clauses)}" if clauses else ""
        newest = f"ORDER BY created DESC, id DESC LIMIT {-1 if limit is None else limit}"
        query = f"SELECT {columns} FROM {table}{where} {newest}"
        with opened(self.path) as db:
            return tuple(kind(*row) for row in reversed(db.execute(query, values).fetchall()))


@dataclass(frozen=True)
class Remembered:
    """What became of a measurement: its ``doubts``, and its ``id`` at ``path``, or the ``trouble`` with that."""

    doubts: tuple[str, ...]
    path: Path
    id: int | None
    trouble: str | None = None


def remember(measurement: Measurement, origin: Origin | None = None, history: History | None = None) -> Remembered:
    """Keep a measurement, and the doubts about it, to which earlier ones add. A history in trouble stops nothing."""
    history = history or History()
    earlier: tuple[Measurement, ...] = ()
    try:
        earlier = history.earlier(measurement)
        found = doubts(measurement, earlier)
        return Remembered(found, history.path, history.record(measurement, origin, len(found)))
    except EdgeDeployError as error:
        return Remembered(doubts(measurement, earlier), history.path, None, f"This run is not in the history: {error}")


def origin_of(bundle: Path) -> Origin:
    """Digest, precision and checkpoint of a bundle, as far as it tells."""
    try:
        manifest = open_artifact(bundle).manifest
    except EdgeDeployError:
        return Origin()
    return Origin(manifest.digest, manifest.exporter.precision, manifest.source.sha256)


def now() -> datetime.datetime:
    """The time, in UTC."""
    return datetime.datetime.now(datetime.UTC)


def _packed(record: object) -> bytes:
    return zlib.compress(canonical(to_json(record)))


def _unpacked(blob: bytes, where: str) -> Measurement:
    return Measurement.from_json(_plain(blob, where), where)


def _plain(blob: bytes, where: str) -> object:
    try:
        return json.loads(zlib.decompress(blob))
    except (zlib.error, ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"The record of {where} is damaged ({error}).") from error
