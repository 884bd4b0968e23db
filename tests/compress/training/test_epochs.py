"""The log of a training: written at once, read strictly, drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedeploy.compress.training import epochs
from edgedeploy.compress.training.epochs import Epoch
from edgedeploy.errors import UsageError

LOG = tuple(
    Epoch(
        number,
        {"box_loss": 1 / number, "cls_loss": 2 / number},
        rate=0.01,
        penalty=1e-4 / number,
        ap50=None if number == 2 else 0.1 * number,
        ap50_95=None if number == 2 else 0.05 * number,
        small={"model.0.bn": number / 10, "model.1.bn": 0.0},
        seconds=1.5,
    )
    for number in (1, 2, 3)
)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "epochs.jsonl"
    assert epochs.read(path) == ()
    epochs.write(path, LOG)
    assert epochs.read(path) == LOG
    assert len(path.read_text().splitlines()) == 3
    epochs.write(path, LOG[:1])
    assert epochs.read(path) == LOG[:1]
    assert [p.name for p in tmp_path.iterdir()] == ["epochs.jsonl"]


@pytest.mark.parametrize("text", ["{", '{"number": 1}\n', '{"number": "one", "losses": {}, "rate": 1}\n', "\xff"])
def test_what_is_no_log_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "epochs.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"epochs\.jsonl"):
        epochs.read(path)


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    epochs.plot(LOG, tmp_path / "with.png")
    bare = [Epoch(1, {"box_loss": 1.0}, 0.01)]  # nothing measured, nothing penalised
    epochs.plot(bare, tmp_path / "without.png")
    tall, low = (imread(tmp_path / name) for name in ("with.png", "without.png"))
    assert tall.shape[0] > low.shape[0]
    assert tall.std() > 0.05
    assert low.std() > 0.05
    with pytest.raises(UsageError, match="no epoch"):
        epochs.plot([], tmp_path / "none.png")
