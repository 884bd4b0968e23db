"""For tests, of this project and of plug-ins: fakes, and the `contract` that every backend keeps."""

from edgedeploy.testing.fakes import (
    SIGNATURE,
    FakeClock,
    FakeSession,
    FakeTask,
    Misbehaving,
    fake_environment,
    fake_measurement,
    fake_passes,
    fake_process,
    fake_target,
    load_fake,
)

__all__ = [
    "SIGNATURE",
    "FakeClock",
    "FakeSession",
    "FakeTask",
    "Misbehaving",
    "fake_environment",
    "fake_measurement",
    "fake_passes",
    "fake_process",
    "fake_target",
    "load_fake",
]
