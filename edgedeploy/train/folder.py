"""The folder of a training: what lies where in it, and that nothing in it is ever half of a file.

::

    training.json      what is trained on what, before the first epoch (`edgedeploy.train.run.Mark`)
    epochs.jsonl       a line per epoch (`edgedeploy.train.log.Epoch`)
    curves.png         the same as a picture
    last.pt            where the training stands after its last finished epoch (`edgedeploy.train.state`)
    best.safetensors   the network of the best epoch so far
    result.json        what came out (`edgedeploy.train.run.TrainingRun`), at the end
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgedeploy.errors import UsageError
from edgedeploy.records import canonical, to_json

MARK, LOG, CURVES, STATE = "training.json", "epochs.jsonl", "curves.png", "last.pt"
BEST, RESULT = "best.safetensors", "result.json"
#: What is there only after something has been learnt.
TRAINED = (RESULT, BEST, STATE, LOG)


def write(path: Path, content: bytes) -> None:
    """Replace the file at ``path``, at once: whoever reads it sees the old one or the new one.

    Raises:
        UsageError: it cannot be written; the old one is still there then.
    """
    partial = path.with_name(f".{path.name}.tmp")  # one process works in a folder; what a kill leaves is replaced
    with writing(path):
        try:
            partial.write_bytes(content)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say that ``path`` cannot be written, and why, where the system refuses it inside the block.

    Raises:
        UsageError: it does.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise UsageError(f"{path} cannot be written: {why}. Make room or take another folder; it can go on.") from error


def write_record(path: Path, record: Any) -> None:
    """``record`` as JSON, at once.

    Raises:
        UsageError: it cannot be written.
    """
    write(path, canonical(to_json(record)) + b"\n")


def check_free(folder: Path) -> None:
    """Refuse a folder with something else in it.

    Raises:
        UsageError: it is a file, or holds what no training has put there.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: give a folder with -o.")
    inside = {path.name for path in folder.iterdir() if path.name[0] != "."} if folder.is_dir() else set()
    if inside and MARK not in inside:
        raise UsageError(f"{folder} holds something else ({min(inside)}): give an empty folder, or a new one, with -o.")


def clear(folder: Path) -> None:
    """Remove what a training leaves, and nothing else; the mark that it is ours goes last.

    Raises:
        UsageError: something of it cannot be removed.
    """
    with writing(folder):
        for name in (RESULT, BEST, STATE, CURVES, LOG, MARK):
            (folder / name).unlink(missing_ok=True)
