"""What a Python process started from here inherits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import edgedeploy
from edgedeploy import inherit


def test_a_child_imports_the_same_edgedeploy(tmp_path: Path) -> None:
    code = "import edgedeploy; print(edgedeploy.__file__)"
    other = tmp_path / "edgedeploy"
    other.mkdir()
    (other / "__init__.py").touch()
    environment = {**inherit.environment(), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == Path(edgedeploy.__file__)


def test_what_is_named_is_added_and_what_was_there_stays() -> None:
    environment = inherit.environment(OMP_NUM_THREADS="1")
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["PATH"] == os.environ["PATH"]
    first = Path(environment["PYTHONPATH"].split(os.pathsep)[0])
    assert (first / "edgedeploy" / "inherit.py").is_file()
