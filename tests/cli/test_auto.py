"""``export --backend auto`` with the backends that are really here."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedeploy.artifact import Artifact
from tests.cli.conftest import Cli


@pytest.mark.slow
def test_every_backend_of_this_machine_is_tried_and_the_fastest_taken(cli: Cli, aerial: Path, tmp_path: Path) -> None:
    done = cli("export", str(aerial), "--backend", "auto", "--precision", "fp32", "-o", str(tmp_path), "--json")
    assert done.status == 0, done.err
    candidates = done.json["candidates"]
    assert candidates[0]["outcome"] == "chosen"
    tried = {one["name"] for one in candidates}
    assert "onnxruntime fp32" in tried
    assert candidates[0]["seconds"] == min(one["seconds"] for one in candidates if one["seconds"] is not None)
    taken = Artifact.open(done.json["path"])
    assert taken.manifest.digest == Artifact.open(candidates[0]["path"]).manifest.digest
    assert taken.path.parent == tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "jetson-orin-nano"], "it can choose for this machine only, not for jetson-orin-nano"),
        (["--option", "opset=17"], "--option is for one: name a backend"),
    ],
)
def test_auto_measures_here_and_for_all_alike(
    cli: Cli, aerial: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    done = cli("export", str(aerial), "--backend", "auto", "-o", str(tmp_path), *words)
    assert done.status == 2
    assert said in done.err
