"""The SQLite file of a history: opened, made, brought up to date; refused in one sentence where it is not ours."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from edgedeploy.errors import Incompatible, UsageError

#: In the header of every history: "EdDp". Nobody else's SQLite file has it.
APPLICATION = 0x45644470
#: Seconds to wait for another process that is writing.
PATIENCE = 20.0
_MEASUREMENT = (
    "id INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, artifact TEXT NOT NULL, bundle TEXT, "
    "device TEXT NOT NULL, reached TEXT NOT NULL, target TEXT, machine TEXT NOT NULL, backend TEXT NOT NULL, "
    "precision TEXT, scenario TEXT NOT NULL, fingerprint TEXT NOT NULL, created TEXT NOT NULL, median REAL NOT NULL, "
    "low REAL, high REAL, p90 REAL, count INTEGER NOT NULL, doubts INTEGER NOT NULL, record BLOB NOT NULL"
)
_COMPARISON = (
    "id INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, bundle TEXT NOT NULL, checkpoint TEXT NOT NULL, "
    "data TEXT NOT NULL, data_digest TEXT NOT NULL, images INTEGER NOT NULL, created TEXT NOT NULL, ap50_95 REAL, "
    "reference REAL, difference REAL NOT NULL, low REAL NOT NULL, high REAL NOT NULL, outcome TEXT NOT NULL, "
    "doubts INTEGER NOT NULL, record BLOB NOT NULL"
)
_BASELINE = "name TEXT PRIMARY KEY, measurement INTEGER NOT NULL REFERENCES measurement(id)"
#: What makes each version of the schema from the one before; a history counts how many of them it has seen.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        f"CREATE TABLE measurement ({_MEASUREMENT})",
        "CREATE INDEX measurement_model ON measurement (model, created)",
        "CREATE INDEX measurement_artifact ON measurement (artifact, fingerprint)",
        "CREATE INDEX measurement_bundle ON measurement (bundle)",
        "CREATE INDEX measurement_created ON measurement (created)",
        f"CREATE TABLE comparison ({_COMPARISON})",
        "CREATE INDEX comparison_bundle ON comparison (bundle, created)",
        f"CREATE TABLE baseline ({_BASELINE})",
    ),
)

_ADVICE = "Move it away, or name another file with EDGEDEPLOY_HISTORY."


@contextlib.contextmanager
def opened(path: Path, create: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection that commits each statement by itself; one to an empty database where ``path`` is not there and not
    to be made.

    Raises:
        UsageError: the file cannot be read or written, is damaged, or is no history.
        Incompatible: a newer edgedeploy has written it.
    """
    with _told(path):
        there = path.exists()
        if create and not there:
            path.parent.mkdir(parents=True, exist_ok=True)
        if there:
            _refuse_foreign(path)
        place = str(path) if there or create else ":memory:"
        with contextlib.closing(sqlite3.connect(place, timeout=PATIENCE, isolation_level=None)) as db:
            _migrate(db, path)
            yield db


def _refuse_foreign(path: Path) -> None:
    """Look at the header without SQLite, which would touch what it opens (journals) before it says what it is."""
    with path.open("rb") as stream:
        header = stream.read(100)
    if not header:
        return
    if header[:16] != b"SQLite format 3\0" or len(header) < 100:
        raise UsageError(f"{path} is no history of edgedeploy, and was left alone. {_ADVICE}")
    if int.from_bytes(header[68:72], "big") != APPLICATION:
        raise UsageError(f"{path} is an SQLite file of another program, and was left alone. {_ADVICE}")


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    if _version(db) < len(MIGRATIONS):
        db.execute("BEGIN IMMEDIATE")
        for statements in MIGRATIONS[_version(db) :]:  # asked again: somebody may have been faster
            for statement in statements:
                db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        db.execute(f"PRAGMA user_version = {max(_version(db), len(MIGRATIONS))}")
        db.execute("COMMIT")
    if _version(db) > len(MIGRATIONS):
        raise Incompatible(
            f"{path} is a history of version {_version(db)}, and this edgedeploy reads {len(MIGRATIONS)}: update it, "
            "or name another file with EDGEDEPLOY_HISTORY."
        )
    if db.execute("PRAGMA journal_mode").fetchone()[0] == "delete":
        with contextlib.suppress(sqlite3.OperationalError):  # in use just now: the next one does it
            db.execute("PRAGMA journal_mode = WAL")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What SQLite or the system refuse, as one sentence."""
    try:
        yield
    except sqlite3.Error as error:
        raise UsageError(_reason(path, error)) from error
    except UnicodeDecodeError as error:  # text that SQLite has no reason to doubt
        raise UsageError(f"The history {path} is damaged ({error}), and was left as it is. {_ADVICE}") from error
    except OSError as error:
        raise UsageError(f"The history {path} cannot be opened: {error.strerror or error}. {_ADVICE}") from error


def _reason(path: Path, error: sqlite3.Error) -> str:
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return f"The history {path} is damaged ({error}), and was left as it is. {_ADVICE}"
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"The history {path} is in use: another process has not let go of it for {PATIENCE:g} s."
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return f"The history {path} cannot be written ({error}): is the disk full? What it held is still there."
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return f"The history {path} cannot be opened ({error}). {_ADVICE}"
    return f"The history {path} cannot be used ({error}). {_ADVICE}"
