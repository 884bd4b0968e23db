"""The choice of what stays in float, on a graph whose parts do known harm."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from edgedeploy.errors import ExportFailed, UsageError
from edgedeploy.exporter import Exporter, Job, Written
from edgedeploy.model import Graph, Model, Source
from edgedeploy.precision.choice import Lowering, choose, few_samples, forced_units, refuse_noise
from edgedeploy.runtime import Outputs, Session
from edgedeploy.tasks.raw import Raw
from edgedeploy.tasks.task import Prepared
from edgedeploy.tensors import Array, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "float32", (1, 8)),), (TensorSpec("y", "float32", (1, 8)),))
UNITS = [f"block.{i}.{part}" for i in range(10) for part in ("conv", "act")]


class Noisy:
    """Gives its input back, with the noise of the units that are lowered."""

    def __init__(self, harm: Mapping[str, float], lowered: frozenset[str]) -> None:
        self.power = sum(harm.get(unit, 0.0) for unit in lowered)
        self.lowered = lowered

    @property
    def facts(self) -> Mapping[str, str | int | float]:
        return {"runtime": "noisy", "version": "1", "threads": 1}

    def run(self, inputs: Mapping[str, Array], graph: str = "main") -> Outputs:
        signs = np.where(np.arange(8) % 2, 1.0, -1.0)
        return {"y": (inputs["x"] + np.sqrt(self.power) * signs).astype(np.float32)}

    def reset(self) -> None: ...

    def close(self) -> None: ...


@dataclass
class Fake:
    """A lowering in which ``harm`` is the noise power of a unit; the input has a power of one."""

    harm: Mapping[str, float]
    useless: frozenset[str] = frozenset()
    opened: int = 0

    @property
    def units(self) -> Sequence[str]:
        return UNITS

    def open(self, lowered: frozenset[str]) -> Session:
        assert lowered <= set(UNITS)
        self.opened += 1
        return Noisy(self.harm, lowered)

    def settle(self, kept: frozenset[str]) -> frozenset[str]:
        return kept | self.useless


@dataclass(frozen=True)
class FakeExporter(Exporter):
    name: ClassVar[str] = "fake"
    runtime: ClassVar[str] = "fake"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8")
    precision: str = "int8"

    def write(self, job: Job) -> Written:
        raise NotImplementedError


def job(score: Callable[[Session], float] | None = None, samples: int = 20) -> Job:
    model = Model("m", {"main": Graph(None, SIGNATURE)}, Source("m", "factory", "0" * 64))
    prepared = [Prepared((np.ones((1, 8), np.float32),)) for _ in range(samples)]
    return Job(model, Raw(), Path(), Noisy({}, frozenset()), prepared, lambda _: None, score)


def chosen(harm: Mapping[str, float], exporter: Exporter | None = None, **changed: Any) -> Any:
    lowering: Lowering = Fake(harm, **changed)
    return choose(lowering, job(), "main", exporter or FakeExporter())


def test_nothing_is_kept_where_nothing_does_harm() -> None:
    found = chosen(dict.fromkeys(UNITS, 1e-6))
    assert found.kept == ()
    assert found.lowered == frozenset(UNITS)
    assert found.trials == 1


def test_the_harmful_ones_stay_in_float_and_are_named_in_order() -> None:
    found = chosen({"block.7.conv": 0.5, "block.2.act": 0.4})
    assert found.kept == ("block.2.act", "block.7.conv")
    assert found.distance == 0
    assert found.distance_all > 0.9
    assert found.notes("int8") == []
    assert found.record()["kept_in_float"] == ["block.2.act", "block.7.conv"]


def test_what_is_not_worth_lowering_is_not() -> None:
    found = chosen({"block.7.conv": 0.5}, useless=frozenset({"block.7.act"}))
    assert found.kept == ("block.7.conv", "block.7.act")


def test_fp16_may_move_results_less_than_int8() -> None:
    harm = {"block.3.conv": 0.06**2}
    assert chosen(harm).kept == ()
    assert chosen(harm, FakeExporter(precision="fp16")).kept == ("block.3.conv",)


def test_a_limit_of_the_user_counts() -> None:
    harm = {"block.3.conv": 0.06**2}
    assert chosen(harm, FakeExporter(limit=0.01)).kept == ("block.3.conv",)


def test_a_module_that_is_kept_on_request_stays_and_is_not_tried() -> None:
    found = chosen({"block.4.conv": 0.5}, FakeExporter(keep_float=("block.4",)))
    assert found.kept == ("block.4.conv", "block.4.act")
    assert found.trials == 1


def test_a_model_that_cannot_be_lowered_is_refused() -> None:
    """A float model that calls itself int8 would be a lie."""
    with pytest.raises(ExportFailed, match="No part of the graph can be in int8"):
        chosen(dict.fromkeys(UNITS, 0.3), FakeExporter(limit=0.1))


def test_over_the_limit_is_said() -> None:
    found = chosen(dict.fromkeys(UNITS, 0.05**2 * 1.5))
    assert found.distance > 0.15
    assert "over the limit of 0.15" in found.notes("int8")[0]


@pytest.mark.parametrize("module", ["block.11", "block.1.con", "elsewhere"])
def test_a_module_that_is_not_there_cannot_be_kept(module: str) -> None:
    with pytest.raises(UsageError, match=f"No part of the graph belongs to a module '{module}'"):
        forced_units(UNITS, [module])


def test_no_samples_no_choice() -> None:
    with pytest.raises(UsageError, match="needs real samples"):
        choose(Fake({}), job(samples=0), "main", FakeExporter())


# By the metric


def falling(harm: Mapping[str, float]) -> Callable[[Session], float]:
    """A metric that starts at 0.5 and falls by the noise power of what is lowered."""

    def score(session: Session) -> float:
        assert isinstance(session, Noisy)
        return 0.5 - sum(harm.get(unit, 0.0) for unit in session.lowered)

    return score


def test_as_few_as_are_needed_stay_in_float_for_a_metric() -> None:
    harm = {"block.1.conv": 0.1, "block.5.act": 0.02, "block.9.conv": 0.004}
    for most, kept in [
        (0.2, ()),
        (0.05, ("block.1.conv",)),
        (0.005, ("block.1.conv", "block.5.act")),
        (0.001, ("block.1.conv", "block.5.act", "block.9.conv")),
    ]:
        found = choose(Fake(harm), job(falling(harm)), "main", FakeExporter(max_drop=most))
        assert found.kept == kept, most
        assert found.drop == pytest.approx(sum(v for k, v in harm.items() if k not in kept), abs=1e-9)
        assert found.limit == most
        assert [p.share for p in found.curve] == sorted(p.share for p in found.curve)
        assert all(0 <= p.share <= 1 for p in found.curve)


def test_units_are_ranked_by_the_noise_they_add() -> None:
    harm = {"block.1.conv": 0.1, "block.5.act": 0.02}
    found = choose(Fake(harm), job(falling(harm)), "main", FakeExporter(max_drop=0.05))
    assert [unit for unit, _ in found.sensitivity[:2]] == ["block.1.conv", "block.5.act"]
    assert dict(found.sensitivity)["block.1.conv"] == pytest.approx(0.1, rel=1e-3)
    assert "curve" in found.record()


def test_without_labels_there_is_no_metric() -> None:
    with pytest.raises(UsageError, match="labelled images"):
        choose(Fake({}), job(), "main", FakeExporter(max_drop=0.01))


def test_a_loss_that_cannot_be_kept_is_refused() -> None:
    class Constant(Noisy):
        pass

    def score(session: Session) -> float:
        assert isinstance(session, Noisy)
        return 0.5 if not session.lowered else 0.1

    with pytest.raises(ExportFailed, match="int8 of any part costs more"):
        choose(Fake(dict.fromkeys(UNITS, 0.01)), job(score), "main", FakeExporter(max_drop=0.01))


@pytest.mark.parametrize("most", [0, -0.1, 1.5, float("nan")])
def test_a_loss_that_is_none_is_refused(most: float) -> None:
    with pytest.raises(UsageError, match="max_drop"):
        FakeExporter(max_drop=most)


# Samples


def test_noise_is_no_image() -> None:
    generator = np.random.default_rng(0)
    noise = [Prepared((generator.random((1, 3, 32, 32)).astype(np.float32),)) for _ in range(4)]
    with pytest.raises(UsageError, match="look like noise"):
        refuse_noise(noise)
    ramp = np.linspace(0, 1, 32, dtype=np.float32)
    refuse_noise([Prepared((np.broadcast_to(ramp, (1, 3, 32, 32)).copy(),))])
    refuse_noise([Prepared((generator.random((1, 8)).astype(np.float32),))])


def test_few_samples_are_said() -> None:
    assert "calibrated on 20 samples" in few_samples(job())[0]
    assert few_samples(dataclasses.replace(job(), calibration=[Prepared(())] * 100)) == []
