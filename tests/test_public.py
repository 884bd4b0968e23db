"""The public names: all there, each from its home, none imported before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import edgedeploy


@pytest.mark.parametrize("name", edgedeploy.__all__)
def test_every_public_name_is_there(name: str) -> None:
    found = getattr(edgedeploy, name)
    assert found.__name__ == name
    assert found.__module__ == f"edgedeploy.{edgedeploy._HOME[name]}"


def test_the_two_lists_are_the_same() -> None:
    assert sorted(edgedeploy.__all__) == sorted(edgedeploy._HOME) == dir(edgedeploy)
    with pytest.raises(AttributeError, match="no attribute 'exprot'"):
        _ = edgedeploy.exprot


def test_the_import_and_the_help_are_light() -> None:
    code = "import edgedeploy, edgedeploy.cli.app, sys; print('numpy' in sys.modules, 'rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
