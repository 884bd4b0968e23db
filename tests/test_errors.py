from __future__ import annotations

import pytest

from edgedeploy import errors
from edgedeploy.errors import EdgeDeployError, did_you_mean

STATUS = {
    "UsageError": 2,
    "Unavailable": 3,
    "Incompatible": 3,
    "Untrusted": 3,
    "ExportFailed": 1,
    "RunFailed": 1,
    "BudgetExceeded": 4,
    "Unstable": 4,
}


def test_every_error_has_its_exit_status_and_is_in_the_tree_of_the_docstring() -> None:
    found = {cls.__name__: cls.exit_status for cls in EdgeDeployError.__subclasses__()}
    assert found == STATUS
    assert errors.__doc__ is not None
    for name, status in STATUS.items():
        (line,) = [line for line in errors.__doc__.splitlines() if f"-- {name}" in line]
        assert line.split()[2] == str(status)


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("raspbery-pi-5", ["raspberry-pi-5", "jetson-nano"], " Did you mean 'raspberry-pi-5'?"),
        ("zzz", ["b", "a"], " Known: a, b."),
        ("zzz", [], ""),
    ],
)
def test_the_nearest_name_or_the_list(name: str, known: list[str], expected: str) -> None:
    assert did_you_mean(name, known) == expected
