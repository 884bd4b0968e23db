"""One contract for all backends, kept with the vendors' real converters and runtimes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("onnxscript")

from edgedeploy import device, plugins
from edgedeploy.errors import Unavailable
from edgedeploy.testing import contract

#: The device to export for, for backends that do not target this machine.
DEVICES = {"coreml": "iphone-15", "qnn": "galaxy-s24", "tensorrt": "jetson-orin-nano"}


def _cases() -> list[tuple[str, str]]:
    found = []
    for name in plugins.names(plugins.EXPORTERS):
        try:
            kind = plugins.find(plugins.EXPORTERS, name)
        except Unavailable:
            found.append((name, "fp32"))
            continue
        known = contract.FURTHEST.keys() - {"int8-weights"}  # for models with state: test_keyword_export
        found += [(name, precision) for precision in kind.precisions if precision in known]
    return found


@pytest.fixture(scope="module", params=_cases(), ids="-".join)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> contract.Made:
    backend, precision = request.param
    profile = device.load(DEVICES[backend]) if backend in DEVICES else None
    try:
        return contract.made(backend, precision, tmp_path_factory.mktemp(f"{backend}-{precision}"), profile)
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Callable[[contract.Made], None], made: contract.Made) -> None:
    check(made)
