"""How a keyword model is trained: a recipe, packaged by name or in a TOML file, without torch.

The defaults are those of Liu et al., "LMUFormer" (ICLR 2024), as its code has them for Speech Commands V2.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from edgedeploy.errors import UsageError, did_you_mean
from edgedeploy.records import from_json, to_json
from edgedeploy.tasks.fbank import Fbank


@dataclass(frozen=True)
class Network:
    """What is built; all but ``frames`` is for LMUFormer alone.

    Args:
        frames: of features that the network is trained and judged on; shorter clips are filled up, longer ones cut.
        dim: channels.
        memory: coefficients of the Legendre memory; 256, or 512 where spiking, if ``None``.
        theta: frames that the memory reaches back.
        depth: blocks.
        spiking: binary spikes between the layers.
        causal: no look-ahead: convolutions are padded on the left alone.
    """

    frames: int = 128
    dim: int = 256
    memory: int | None = None
    theta: int = 128
    depth: int = 1
    spiking: bool = False
    causal: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be built.

        Raises:
            UsageError: names the field, the value and what it has to be.
        """
        for name in ("frames", "dim", "theta", "depth"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(self.memory is None or self.memory >= 1, "memory", self.memory, "at least 1")


@dataclass(frozen=True)
class Training:
    """Adam on the binary cross-entropy of every class, as the learning rate goes down in steps.

    Args:
        epochs: passes over the training clips.
        batch: clips per step.
        rate: first learning rate.
        betas: of Adam.
        decay: what the learning rate is multiplied by at each step down.
        stages: of equal length, each with a learning rate of its own: 20 of 10 epochs where there are 200.
        precision: ``fp32``, or ``bf16``: automatic mixed precision.
        seed: of weights, order and augmentation.
    """

    epochs: int = 200
    batch: int = 128
    rate: float = 2.5e-3
    betas: tuple[float, float] = (0.95, 0.999)
    decay: float = 0.85
    stages: int = 20
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            UsageError: names the field, the value and what it has to be.
        """
        _require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        _require(self.batch >= 2, "batch", self.batch, "at least 2: one clip has no variance to normalise by")
        _require(0 < self.rate < 10, "rate", self.rate, "above 0 and below 10")
        _require(all(0 <= beta < 1 for beta in self.betas), "betas", list(self.betas), "two numbers from 0 to below 1")
        _require(0 < self.decay <= 1, "decay", self.decay, "above 0 and at most 1")
        _require(self.stages >= 1, "stages", self.stages, "at least 1")
        _require(self.seed >= 0, "seed", self.seed, "0 or more")

    def rate_in(self, epoch: int) -> float:
        """The learning rate in an epoch counted from 0."""
        return self.rate * self.decay ** (epoch * self.stages // self.epochs)


@dataclass(frozen=True)
class Augmentation:
    """What is done to a clip in training, in this order; each with 0 is left out.

    Args:
        speed: the clip is played faster or slower by up to this share.
        mixup: how probable it is that another clip is mixed in.
        beta: both parameters of the Beta distribution that the share of the mixed clip is drawn from.
        filter: decibels; greatest gain of a band of the drawn filter that the sound goes through.
        frequency_mask: bins; the width of the masked band is drawn below it.
        time_mask: frames; the width of the masked stretch is drawn below it.
        noise: greatest amplitude of the noise on normalised features.
        roll: frames by which a clip is shifted, at most.
    """

    speed: float = 0.0
    mixup: float = 0.6
    beta: float = 10.0
    filter: float = 0.0
    frequency_mask: int = 48
    time_mask: int = 48
    noise: float = 0.1
    roll: int = 10

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            UsageError: names the field, the value and what it has to be.
        """
        _require(0 <= self.speed <= 0.5, "speed", self.speed, "between 0 and 0.5")
        _require(0 <= self.mixup <= 1, "mixup", self.mixup, "between 0 and 1")
        _require(self.beta > 0, "beta", self.beta, "above 0")
        _require(0 <= self.filter <= 40, "filter", self.filter, "between 0 and 40")
        _require(self.frequency_mask >= 0, "frequency_mask", self.frequency_mask, "0 or more")
        _require(self.time_mask >= 0, "time_mask", self.time_mask, "0 or more")
        _require(self.noise >= 0, "noise", self.noise, "0 or more")
        _require(self.roll >= 0, "roll", self.roll, "0 or more")


@dataclass(frozen=True)
class Recipe:
    """A whole training: what is built, of what features, and how it is trained."""

    name: str = "paper"
    network: Network = field(default_factory=Network)
    features: Fbank = field(default_factory=Fbank)
    training: Training = field(default_factory=Training)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        """Refuse masks that may hide a whole clip, and what no window can be cut to.

        Raises:
            UsageError: names the field, the value and what it has to be.
        """
        masks, network = self.augmentation, self.network
        _require(masks.time_mask <= network.frames, "time_mask", masks.time_mask, f"at most {network.frames} (frames)")
        bins = self.features.bins
        _require(masks.frequency_mask <= bins, "frequency_mask", masks.frequency_mask, f"at most {bins} (bins)")


#: Tables of a file, and what each describes.
TABLES: Mapping[str, type[Any]] = {
    "network": Network,
    "features": Fbank,
    "training": Training,
    "augmentation": Augmentation,
}


def presets() -> tuple[str, ...]:
    """Names of the packaged recipes."""
    folder = files("edgedeploy.train") / "recipes"
    return tuple(sorted(Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".toml")))


def read_recipe(name: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a packaged name or a TOML file; what it leaves out is as the paper has it.

    Args:
        name: ``small``, or the path of a file.
        changes: single settings that override it, such as ``{"training.rate": 0.001}``.

    Raises:
        UsageError: there is none, it is not TOML, has an unknown table or key, or a value that cannot be.
    """
    try:
        data = tomllib.loads(_text(name))
    except (ValueError, RecursionError) as error:  # tomllib's error is one
        raise UsageError(f"{name} is not TOML that can be read: {error}.") from error
    title = data.pop("name", Path(name).stem)
    if not isinstance(title, str):
        raise UsageError(f"{name}: name: expected text, found {title!r}.")
    for key, table in data.items():
        _known(key, name)
        if not isinstance(table, dict):
            raise UsageError(f"{name}: {key}: expected a table [{key}], found {table!r}.")
    for setting, value in (changes or {}).items():
        key, dot, rest = setting.partition(".")
        if not dot or not rest:
            raise UsageError(f"--set {setting}: write it as TABLE.KEY=VALUE, such as training.rate=0.001.")
        _known(key, f"--set {setting}")
        data.setdefault(key, {})[rest] = to_json(value)
    return Recipe(title, **{key: _table(TABLES[key], table, f"{name}: [{key}]") for key, table in data.items()})


def _text(name: str) -> str:
    path = Path(name)
    try:
        if name in presets():
            return (files("edgedeploy.train") / "recipes" / f"{name}.toml").read_text("utf-8")
        if path.suffix != ".toml" and not path.exists():
            raise UsageError(f"There is no recipe '{name}'.{did_you_mean(name, presets())} Or give a file, NAME.toml.")
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path} cannot be read: {why}.") from error


def _known(key: str, where: str) -> None:
    if key not in TABLES:
        raise UsageError(f"{where}: unknown table [{key}].{did_you_mean(key, TABLES)}")


def _table(cls: type[Any], table: Mapping[str, Any], where: str) -> Any:
    try:
        return from_json(cls, dict(table), where)
    except UsageError as error:  # a record that refuses a value does not know the file
        said = str(error)
        raise UsageError(said if said.startswith(where) else f"{where}: {said.removeprefix('Recipe: ')}") from None


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    # a number that is not finite holds no comparison, or all of them
    if not holds or (isinstance(value, float) and not math.isfinite(value)):
        raise UsageError(f"Recipe: {name} is {value!r}; it has to be {expected}.")
