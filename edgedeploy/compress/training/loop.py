"""Ultralytics' detection trainer, with its loop, augmentation, warm-up and averaging, doing what a compression needs.

Replaced are: where network and data come from, the step of the optimiser, what is measured and saved after an epoch,
and what a group of processes is. Importing this module imports ``ultralytics`` (AGPL-3.0).
"""

from __future__ import annotations

import atexit
import inspect
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from edgedeploy.compress.detector import Detector
from edgedeploy.compress.evaluation import evaluate
from edgedeploy.compress.recipe import Distillation, Slimming, Training
from edgedeploy.compress.staging import Staged
from edgedeploy.compress.training import distilled, state
from edgedeploy.compress.training.epochs import Epoch
from edgedeploy.compress.training.feed import Images, Order, loader
from edgedeploy.compress.training.slimming import Penalty, rate_at, scales, small_shares, take_step
from edgedeploy.errors import RunFailed, UsageError
from edgedeploy.models.yolo import quietly

with quietly():
    from ultralytics.cfg import get_cfg
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.utils import DEFAULT_CFG
    from ultralytics.utils.torch_utils import select_device, unwrap_model

#: The argument that keeps running statistics apart between processes: those of the first are kept. It was renamed.
_PARALLEL = inspect.signature(DistributedDataParallel).parameters
_SYNC = "forward_sync_buffers" if "forward_sync_buffers" in _PARALLEL else "broadcast_buffers"
#: How long the other processes wait for the one that measures.
PATIENCE = timedelta(hours=3)


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that one training needs: what is trained, on what, how, what is added to it, and where it is kept.

    ``slimmed`` are the batch normalisations that the penalty is on, ``key`` tells this training from any other, this
    process is ``rank`` of ``world``.
    """

    detector: Detector
    data: Staged
    training: Training
    folder: Path
    slimming: Slimming | None
    slimmed: tuple[str, ...]
    distillation: Distillation | None
    teacher: Detector | None
    follow: Callable[[Epoch], None]
    key: str
    rank: int
    world: int


class Loop(DetectionTrainer):  # type: ignore[misc]  # ultralytics is not typed for us
    """One training by a plan. `train` leaves the averaged network in ``ema`` and the records in ``epochs_done``."""

    def __init__(self, plan: Plan, overrides: dict[str, Any]) -> None:
        """``overrides`` are Ultralytics' settings."""
        self.plan = plan
        self.epochs_done: tuple[Epoch, ...] = ()
        self.penalty: Penalty | None = None
        self.pending = self.batches = 0
        self.began = 0.0
        with _all_threads():
            super().__init__(overrides=overrides)
        _check_precision(self.device, plan.training.precision)
        self.world_size = plan.world if plan.world > 1 else 0
        if plan.rank == 0 and self.wdir.is_dir() and not any(self.wdir.iterdir()):
            self.wdir.rmdir()  # Ultralytics' own checkpoints are never written

    # ---- what is trained, and on what

    def get_dataset(self) -> dict[str, Any]:
        """What Ultralytics reads of a data.yaml, from what was staged: nothing is looked for or downloaded."""
        staged = self.plan.data
        names = dict(enumerate(staged.labels))
        folders = {split: str(staged.folder / "images" / split) for split in ("train", "val")}
        channels = int(self.plan.detector.network.yaml.get("channels", 3))
        return {"path": str(staged.folder), **folders, "nc": len(names), "names": names, "channels": channels}

    def setup_model(self) -> None:
        """A copy of the detector's own network: built again from its yaml, a pruned one would be as wide as before."""
        self.model = deepcopy(self.plan.detector.network).train()
        if self.plan.distillation is not None and self.plan.teacher is not None:
            distilled.begin(self.model, self.plan.teacher.network, self.plan.distillation)
        if self.device.type == "cpu":  # Ultralytics does so on GPUs only; oneDNN's kernels gain from it too
            self.model = self.model.to(memory_format=torch.channels_last)

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """Batches of training images; validation images are read by the evaluator, and need no loader."""
        if mode != "train":
            return self.train_loader
        batch, plan = self.plan.training.batch // self.plan.world, self.plan
        images = Images(plan.data, self.data, self.args, batch, self.stride)
        order = Order(len(images), plan.training.seed, plan.rank, plan.world)
        return loader(images, batch, order, self.args.workers, pin=self.device.type == "cuda")

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """As Ultralytics does it, in the memory format of the network."""
        batch = super().preprocess_batch(batch)
        if self.device.type == "cpu":
            batch["img"] = batch["img"].contiguous(memory_format=torch.channels_last)
        return batch

    # ---- several processes

    def _setup_ddp(self) -> None:
        """Join the processes that torchrun started: over gloo on CPUs, over NCCL on GPUs."""
        if not distributed.is_initialized():
            distributed.init_process_group(
                "gloo" if self.device.type == "cpu" else "cpu:gloo,cuda:nccl", timeout=PATIENCE
            )
            atexit.register(_leave)

    def _setup_train(self) -> None:
        """Ultralytics' setup, then mixed precision, resuming, the penalty and the parallel wrapper.

        Set up is for one process without mixed precision: for more than one, Ultralytics wraps the network for GPUs
        only; and for mixed precision it wants to download a network to try it on.
        """
        world, self.world_size = self.world_size, 0
        super()._setup_train()
        self.world_size = world
        precision = self.plan.training.precision
        self.amp = precision != "fp32"
        if self.device.type == "cuda":
            self.args.amp = precision
            self.scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")
        if self.plan.slimmed:
            slimming = self.plan.slimming or Slimming(rate=0.0)
            self.penalty = Penalty(slimming, scales(self.model, self.plan.slimmed))
        self.start_epoch = state.restore(self)
        self.scheduler.last_epoch = self.start_epoch - 1
        if world > 1:
            options: dict[str, Any] = {_SYNC: False}
            if self.device.type != "cpu":
                options["device_ids"] = [self.device.index]
            # from a batch without objects no box is learnt, so that parameters may be unused
            self.model = DistributedDataParallel(self.model, find_unused_parameters=True, **options)

    # ---- an epoch

    def run_callbacks(self, event: str) -> None:
        """What Ultralytics lets others hook into is used by this class, and by no logging service."""
        if event == "on_train_epoch_start":
            self._begin_epoch()
        elif event == "on_train_batch_end":
            self._after_batch()
        elif event == "on_train_epoch_end":
            self._check_losses()

    def _begin_epoch(self) -> None:
        self.began = time.perf_counter()
        self.pending = self.batches = 0
        self._oom_retries = 3  # a smaller batch than was asked for is not taken silently
        random.seed(f"{self.plan.training.seed} {self.epoch} {self.plan.rank}")  # multi_scale draws in this process
        self.train_loader.dataset.begin(self.epoch)
        self.train_loader.sampler.set_epoch(self.epoch)
        self.train_loader.reset()  # workers hold copies of the data set
        if self.plan.distillation is not None and self.plan.teacher is not None:
            weight = distillation_at(self.plan.distillation, self.plan.training, self.epoch)
            distilled.set_weight(unwrap_model(self.model), weight)

    def optimizer_step(self) -> None:
        """Nothing: when a step is due is decided by `_after_batch`, which does not look at earlier epochs."""

    def _after_batch(self) -> None:
        """Take a step when enough batches were accumulated, and after the last one of an epoch."""
        self.pending, self.batches = self.pending + 1, self.batches + 1
        if self.pending < self.accumulate and self.batches < len(self.train_loader):
            return
        self.pending = 0
        if take_step(self.model, self.optimizer, self.scaler, self.penalty, self._rate()):
            self.ema.update(self.model)

    def _rate(self) -> float:
        slimming = self.plan.slimming
        return 0.0 if slimming is None else rate_at(slimming, self.epoch, self.epochs)

    def _check_losses(self) -> None:
        broken = [name for name, value in self.tloss.items() if not torch.isfinite(value).all()]
        if broken:
            raise RunFailed(
                f"Training in {self.plan.folder}: {' and '.join(broken)} became NaN or infinite in epoch "
                f"{self.epoch + 1}. Lower rate ({self.plan.training.rate:g}), or train with precision fp32."
            )

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """Never: `_check_losses` has stopped the training, and says why."""
        return False

    # ---- after an epoch

    def get_validator(self) -> Any:
        """None of Ultralytics': `validate` does it."""
        return SimpleNamespace(metrics=SimpleNamespace(keys=[]), dataloader=None)

    def validate(self) -> tuple[dict[str, float | None], None]:
        """AP of the averaged network, in epochs where it is asked for, in the first process."""
        every, number = self.plan.training.every, self.epoch + 1
        if self.plan.rank != 0 or not (number == self.epochs or (every and number % every == 0)):
            return {}, None
        now = Detector(self.snapshot(), self.plan.data.labels, self.plan.detector.size, self.plan.detector.lineage)
        side = self.plan.training.size
        metric = evaluate(now, self.plan.data.val, size=(side, side)).accuracy.metric
        return {"ap50": metric.ap50, "ap50_95": metric.ap50_95}, None

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Nothing: `save_model` keeps the record."""

    def save_model(self) -> bool:
        """Keep the record of the epoch and the state of the training, then tell who follows it."""
        epoch = Epoch(
            number=self.epoch + 1,
            losses={name: float(value) for name, value in self.tloss.items()},
            rate=float(next(g["lr"] for g in self.optimizer.param_groups if g["param_group"] != "bias")),
            penalty=self._rate(),
            ap50=self.metrics.get("ap50"),
            ap50_95=self.metrics.get("ap50_95"),
            small=self._small(),
            seconds=time.perf_counter() - self.began,
        )
        self.epochs_done = (*self.epochs_done, epoch)
        state.save(self)
        self.plan.follow(epoch)
        return True

    def _small(self) -> dict[str, float]:
        if self.penalty is None:
            return {}
        factors = scales(self.ema.ema, self.plan.slimmed)
        return small_shares(factors, self.penalty.slimming.small)

    def final_eval(self) -> None:
        """Nothing but that all processes end with the network, and the records, of the first."""
        if self.world_size > 1:
            for tensor in self.ema.ema.state_dict().values():
                distributed.broadcast(tensor, src=0)
            records = [self.epochs_done]
            distributed.broadcast_object_list(records, src=0)
            self.epochs_done = records[0]

    def snapshot(self) -> Any:
        """A copy of the averaged network as the network of a `Detector`, on the device of the training."""
        network = deepcopy(self.ema.ema)
        distilled.end(network)
        network = network.float().eval().to(memory_format=torch.contiguous_format)
        original = self.plan.detector.network
        _put_back(network, original, ("args", "class_weights", "criterion", "nc"))
        _put_back(network.model[-1], original.model[-1], ("max_det",))
        before = dict(original.named_parameters())
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(before[name].requires_grad)
        return network


def distillation_at(distillation: Distillation, training: Training, epoch: int) -> float:
    """Weight of the term in an epoch counted from 0: rising during the warm-up, and 0 in the last epochs.

    During the warm-up it is the mean over the epoch of a line from 0 to the full weight.
    """
    if epoch >= training.epochs - distillation.last(training):
        return 0.0
    risen = (epoch + 0.5) / distillation.warmup if distillation.warmup > 0 else 1.0
    return distillation.weight * min(risen, 1.0)


def processes() -> tuple[int, int]:
    """Rank of this process and number of processes, as torchrun says; (0, 1) without it."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    return (int(os.environ.get("RANK", "0")), world) if world > 1 else (0, 1)


def settle(overrides: dict[str, Any]) -> None:
    """Refuse settings that Ultralytics would refuse.

    Raises:
        UsageError: in its words.
    """
    try:
        get_cfg(DEFAULT_CFG, overrides)
        with _all_threads():
            select_device(overrides.get("device", ""), verbose=False)
    except (SyntaxError, TypeError, ValueError) as error:
        said = " ".join(re.sub(r"\x1b\[\d+m", "", str(error)).split())
        raise UsageError(f"Ultralytics refuses the settings of this training: {said[:300]}") from error


@contextmanager
def _all_threads() -> Iterator[None]:
    """Keep torch's threads: choosing a CPU, Ultralytics leaves one of its cores unused, which is half of two."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _put_back(module: Any, original: Any, names: tuple[str, ...]) -> None:
    """Attributes that a training sets, as they were before it."""
    for name in names:
        module.__dict__.pop(name, None)
        if name in original.__dict__:
            setattr(module, name, deepcopy(original.__dict__[name]))


def _check_precision(device: torch.device, precision: str) -> None:
    if precision == "fp16" and device.type != "cuda":
        raise UsageError(f"precision fp16 needs a GPU, and this trains on {device.type}. Take bf16 or fp32.")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UsageError("precision bf16 is not known to this GPU. Take fp16 or fp32.")


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
