"""What was found of each network on the data, kept in the folder of a run: judged once, compared as often as wanted."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgedeploy.accuracy import Accuracy, Assessment
from edgedeploy.errors import UsageError
from edgedeploy.records import canonical, from_json, to_json
from edgedeploy.tasks.matches import Matches

_ARRAYS = ("classes", "scores", "image", "right", "ignored", "truths")


@dataclass(frozen=True, eq=False)
class Judged:
    """An accuracy, with the matches from which paired differences are computed."""

    accuracy: Accuracy
    matches: Matches

    @classmethod
    def of(cls, found: Assessment) -> Judged:
        """What is kept of an assessment."""
        return cls(found.accuracy, found.matches)


@dataclass(frozen=True)
class Judgements:
    """A folder of them: one .npz each, under a name that everything goes into which could change it."""

    folder: Path

    def judge(self, key: tuple[object, ...], make: Callable[[], Assessment]) -> Judged:
        """What is kept under ``key``, else what ``make`` finds, which is kept then.

        Args:
            key: all that the result depends on: sha256 of the network or bundle, of the data, protocol, size.
            make: assesses.
        """
        path = self.folder / f"{hashlib.sha256(canonical(to_json(key))).hexdigest()[:32]}.npz"
        known = _read(path)
        if known is None:
            known = Judged.of(make())
            _write(path, known)
        return known


def _write(path: Path, judged: Judged) -> None:
    """Under a temporary name first, so that there is never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    matches = {name: getattr(judged.matches, name) for name in _ARRAYS}
    words = json.dumps({"accuracy": to_json(judged.accuracy), "labels": judged.matches.labels})
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        np.savez_compressed(stream, words=np.array(words), **matches)
    temporary.replace(path)


def _read(path: Path) -> Judged | None:
    """What is there, or ``None`` where nothing is, or what another version or a crash left."""
    try:
        with np.load(path, allow_pickle=False) as found:
            words = json.loads(str(found["words"]))
            arrays = {name: found[name] for name in _ARRAYS}
        accuracy = from_json(Accuracy, words["accuracy"], str(path))
        matches = Matches(labels=tuple(words["labels"]), **arrays)
    except (OSError, ValueError, KeyError, UsageError, zipfile.BadZipFile):
        return None
    return Judged(accuracy, matches)
