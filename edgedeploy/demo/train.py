"""Train the aerial detector on synthetic scenes: `python -m edgedeploy.demo.train --help`.

The scenes are rendered from their seeds at the start and kept in memory; nothing is downloaded. A run that
is killed goes on from its last finished epoch when the same command is given again.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgedeploy.demo.loss import corners, loss
from edgedeploy.demo.scenes import LABELS, Scene, render, seeds
from edgedeploy.errors import UsageError
from edgedeploy.models import native
from edgedeploy.models.aerial import STRIDES, AerialNet
from edgedeploy.tasks.nms import suppress

SIZE = 320
OPTIONS: dict[str, Any] = {
    "classes": len(LABELS),
    "widths": [16, 32, 64, 96, 128],
    "depths": [1, 2, 2, 1],
    "neck": 64,
    "hidden": 48,
}
CHECKPOINT = Path(__file__).with_name("aerial.safetensors")


@dataclass(frozen=True)
class Recipe:
    """What decides the weights; a stopped run may only go on with the same recipe."""

    seed: int = 0
    epochs: int = 24
    scenes: int = 2048
    batch: int = 16
    rate: float = 2e-3
    bfloat16: bool = True


def draw_scenes(numbers: Sequence[int], workers: int) -> list[Scene]:
    """The scenes of these seeds, rendered in `workers` processes."""
    if workers < 2:
        return [render(number, SIZE) for number in numbers]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(partial(render, size=SIZE), numbers, chunksize=16))


def turn(image: Tensor, boxes: Tensor, quarter: int, mirror: bool) -> tuple[Tensor, Tensor]:
    """A square image (3, size, size) and its corner boxes (n, 4), mirrored and turned by quarter turns."""
    size = image.shape[-1]
    x1, y1, x2, y2 = boxes.unbind(1)
    if mirror:
        image = image.flip(2)
        x1, x2 = size - x2, size - x1
    for _ in range(quarter % 4):  # counter-clockwise, as torch.rot90
        x1, y1, x2, y2 = y1, size - x2, y2, size - x1
    return torch.rot90(image, quarter % 4, (1, 2)), torch.stack([x1, y1, x2, y2], dim=1)


def batches(
    scenes: Sequence[Scene], recipe: Recipe, epoch: int
) -> Iterator[tuple[Tensor, list[tuple[Tensor, Tensor]]]]:
    """Shuffled, turned and mirrored batches: images float32 in 0..1 and boxes and classes per image."""
    rng = np.random.default_rng([recipe.seed, epoch])
    order = rng.permutation(len(scenes))
    for start in range(0, len(order) - recipe.batch + 1, recipe.batch):
        images, truths = [], []
        for index in order[start : start + recipe.batch]:
            scene = scenes[index]
            image, boxes = torch.from_numpy(scene.image).permute(2, 0, 1), torch.from_numpy(scene.boxes)
            image, boxes = turn(image, boxes, int(rng.integers(4)), bool(rng.integers(2)))
            images.append(image)
            truths.append((boxes, torch.from_numpy(scene.classes)))
        batch = torch.stack(images).float() / 255
        yield batch.contiguous(memory_format=torch.channels_last), truths


class Average:
    """A running average of a model's parameters and statistics, which is what gets saved."""

    def __init__(self, model: AerialNet, decay: float = 0.998) -> None:
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.decay = decay

    def update(self, model: AerialNet, step: int) -> None:
        keep = min(self.decay, (1 + step) / (10 + step))  # short memory while the weights still move fast
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value.detach(), 1 - keep)
            else:
                self.state[name].copy_(value)


def rate_at(step: int, steps: int, warm: int) -> float:
    """Share of the peak learning rate: a linear rise over `warm` steps, then half a cosine down to 1 %."""
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def train(recipe: Recipe, scenes: Sequence[Scene], state: Path) -> AerialNet:
    """The trained, averaged model in eval mode; progress on stderr, the run's state in `state`.

    Raises:
        UsageError: `state` belongs to a run with another recipe, or there are too few scenes for a batch.
    """
    if recipe.epochs < 1 or len(scenes) < recipe.batch:
        raise UsageError(
            f"{len(scenes)} scenes, {recipe.epochs} epochs and batches of {recipe.batch} leave no work: "
            f"give at least {recipe.batch} scenes and one epoch"
        )
    torch.manual_seed(recipe.seed)
    model = AerialNet(**OPTIONS)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": kernels, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}], lr=recipe.rate
    )
    average, first = Average(model), 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        if saved["recipe"] != asdict(recipe):
            other = saved["recipe"]
            raise UsageError(f"{state} belongs to another run, {other}: delete it or name another --state")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average.state, first = saved["average"], saved["epoch"]
        _say(f"going on after epoch {first}")
    per_epoch = len(scenes) // recipe.batch
    steps, warm = recipe.epochs * per_epoch, min(per_epoch, 100)
    for epoch in range(first, recipe.epochs):
        model.train()
        began, sums = time.monotonic(), np.zeros(2)
        for index, (images, truths) in enumerate(batches(scenes, recipe, epoch)):
            step = epoch * per_epoch + index
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * rate_at(step, steps, warm)
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
                found = model.predict(images)
            box, kind = loss(found, truths)
            optimizer.zero_grad()
            (2 * box + kind).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            average.update(model, step)
            sums += (box.item(), kind.item())
            if (index + 1) % 32 == 0:
                box_mean, kind_mean = sums / (index + 1)
                place = f"epoch {epoch + 1}/{recipe.epochs} step {index + 1}/{per_epoch}"
                took = time.monotonic() - began
                _say(f"{place} box {box_mean:.3f} class {kind_mean:.3f} {took:.0f} s")
        record = {"recipe": asdict(recipe), "epoch": epoch + 1, "model": model.state_dict()}
        record |= {"optimizer": optimizer.state_dict(), "average": average.state}
        state.parent.mkdir(parents=True, exist_ok=True)
        torch.save(record, state.with_suffix(".partial"))
        state.with_suffix(".partial").replace(state)
    model.load_state_dict(average.state)
    model.eval()
    return model


@torch.inference_mode()
def average_precision(model: AerialNet, scenes: Sequence[Scene]) -> dict[str, float]:
    """COCO average precision over `scenes` with at most 100 boxes an image: {"AP50": ..., "AP50-95": ...}.

    Boxes below a probability of 0.005 are left out, and classes are suppressed apart at an IoU of 0.7.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    truths: list[dict[str, Any]] = []
    founds: list[dict[str, Any]] = []
    for number, scene in enumerate(scenes):
        for box, kind in zip(scene.boxes.tolist(), scene.classes.tolist(), strict=True):
            truths.append({"id": len(truths) + 1, "image_id": number, "iscrowd": 0, **_entry(box, kind)})
        image = torch.from_numpy(scene.image).permute(2, 0, 1)[None].float() / 255
        output = model(image)[0]
        boxes, scores = corners(output[:4].T).numpy(), output[4:].T.numpy()
        anchors, kinds = np.nonzero(scores > 0.005)
        order = np.argsort(-scores[anchors, kinds], kind="stable")
        anchors, kinds = anchors[order], kinds[order]
        kept = suppress(boxes[anchors], kinds, iou=0.7, limit=300)
        for anchor, kind in zip(anchors[kept].tolist(), kinds[kept].tolist(), strict=True):
            entry = _entry(boxes[anchor].tolist(), kind)
            founds.append({"image_id": number, "score": float(scores[anchor, kind]), **entry})
    images = [{"id": number, "width": SIZE, "height": SIZE} for number in range(len(scenes))]
    categories = [{"id": index, "name": label} for index, label in enumerate(LABELS)]
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO({"images": images, "annotations": truths, "categories": categories})
        result = COCOeval_faster(known, known.loadRes(founds), "bbox")
        result.run()
    return {"AP50": round(float(result.stats[1]), 4), "AP50-95": round(float(result.stats[0]), 4)}


def _entry(box: list[float], kind: int) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "category_id": kind}


def save(model: AerialNet, path: Path, training: dict[str, Any]) -> None:
    """Write the weights in float16 and what a user of them has to know, as JSON in the file's metadata."""
    task = {
        "kind": "detect", "labels": list(LABELS), "size": [SIZE, SIZE], "resize": "letterbox",
        "align": "center", "pad": 114, "color": "RGB", "mean": [0, 0, 0], "std": [255, 255, 255],
        "head": "yolov8", "strides": list(STRIDES), "nms": "host", "confidence": 0.25, "iou": 0.7,
        "max_detections": 300,
    }  # fmt: skip
    record = {"schema": 1, "architecture": "aerial", "options": OPTIONS, "task": task, "training": training}
    native.save(path, copy.deepcopy(model).half(), record)


def load(path: Path) -> AerialNet:
    """The model stored in `path`, float32, in eval mode."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["edgedeploy"])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model = AerialNet(**record["options"])
    model.load_state_dict(state)
    return model.eval()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    default, state = Recipe(), Path("aerial-training.pt")
    parser = argparse.ArgumentParser(prog="python -m edgedeploy.demo.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=CHECKPOINT, help="where the weights go")
    parser.add_argument("--state", type=Path, default=state, help="where a stopped run goes on")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--epochs", type=int, default=default.epochs)
    parser.add_argument("--scenes", type=int, default=default.scenes, help="training scenes")
    parser.add_argument("--held-out", type=int, default=256, help="scenes that precision is measured on")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads and processes")
    parser.add_argument("--no-bfloat16", action="store_true", help="train in float32 throughout")
    parser.add_argument("--evaluate", type=Path, metavar="FILE", help="only print the precision of a file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: train and save, or only evaluate a saved file."""
    chosen = _parse(arguments)
    torch.set_num_threads(chosen.threads)
    held_out = seeds("val", chosen.held_out)
    if chosen.evaluate:
        print(json.dumps(average_precision(load(chosen.evaluate), draw_scenes(held_out, chosen.threads))))
        return
    recipe = Recipe(chosen.seed, chosen.epochs, chosen.scenes, bfloat16=not chosen.no_bfloat16)
    began = time.monotonic()
    _say(f"rendering {recipe.scenes} scenes")
    scenes = draw_scenes(seeds("train", recipe.scenes, recipe.seed), chosen.threads)
    model = train(recipe, scenes, chosen.state)
    model.half().float()  # measure what is stored
    found = average_precision(model, draw_scenes(held_out, chosen.threads))
    flags = f"--seed {recipe.seed} --epochs {recipe.epochs} --scenes {recipe.scenes}"
    flags += "" if recipe.bfloat16 else " --no-bfloat16"
    command = f"python -m edgedeploy.demo.train {flags}"
    record = {**asdict(recipe), "command": command, "torch": torch.__version__}
    save(model, chosen.out, {**record, "held_out_scenes": chosen.held_out, **found})
    chosen.state.unlink()
    _say(f"{chosen.out}: {chosen.out.stat().st_size} bytes after {time.monotonic() - began:.0f} s")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
