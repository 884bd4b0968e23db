"""What LMUFormer costs beside the transformer that its paper compares it with, and what spikes save.

    python -m benchmarks.papers.lmuformer_cost [--json]
    python -m benchmarks.papers.lmuformer_cost --spiking CHECKPOINT --clips FOLDER [--split test] [--json]

The first counts parameters and multiply-adds (`edgedeploy.cost`, of the graphs as they are exported). The second also
counts the spikes of a trained network on recordings, and adds energy by a model (`edgedeploy.models.spike_cost`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.papers.ast_like import AstLike
from edgedeploy.capture import module_path, to_onnx
from edgedeploy.cost import graph_cost
from edgedeploy.model import Graph
from edgedeploy.models.lmuformer import LMUFormer
from edgedeploy.models.spike_cost import MULTIPLY_ADD, LayerCost, SpikeCost, spike_cost
from edgedeploy.records import to_json
from edgedeploy.tensors import Signature, TensorSpec

CLASSES, FRAMES, BINS = 35, 128, 128
#: What the abstract of Liu et al. (ICLR 2024) claims against AST: times fewer.
PAPER = {"parameters": 53, "FLOPs": 65}
_CONVOLUTIONS, _PRODUCTS = ("Conv",), ("MatMul", "Gemm", "Attention")


@dataclass(frozen=True)
class Counted:
    """A network for one clip: ``convolutions``, ``linear`` and ``memory`` are multiply-adds; ``attention`` is in none.

    ``attention`` are products of activations with activations.
    """

    name: str
    parameters: int
    convolutions: int
    linear: int
    memory: int = 0
    attention: int = 0

    @property
    def macs(self) -> int:
        """All of them."""
        return self.convolutions + self.linear + self.memory + self.attention


class _EveryFrame(nn.Module):
    """The answers at every prefix, so that the head is counted for every frame, as its authors have it."""

    def __init__(self, network: LMUFormer) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor) -> Tensor:
        return self.network.prefixes(features)


def count(name: str, network: nn.Module, answers: tuple[int, ...], memory: int = 0) -> Counted:
    """Count a network's graph; what computes a memory is told by its module path and left out, for ``memory``."""
    import onnx

    inputs = (TensorSpec("features", "float32", (1, FRAMES, BINS)),)
    signature = Signature(inputs, (TensorSpec("logits", "float32", (1, *answers)),))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        to_onnx(Graph(network.eval().requires_grad_(False), signature), path, opset=18)
        cost = graph_cost(path)
        paths = {node.name: module_path(node) for node in onnx.load(path, load_external_data=False).graph.node}
    found = {"convolutions": 0, "linear": 0, "attention": 0}
    for node in cost.nodes:
        if node.kind in (*_CONVOLUTIONS, *_PRODUCTS) and "memory" not in paths[node.name].split("."):
            kind = "convolutions" if node.kind in _CONVOLUTIONS else "linear" if node.weights else "attention"
            found[kind] += node.flops // 2
    return Counted(name, sum(p.numel() for p in network.parameters()), memory=memory, **found)


def counted() -> tuple[Counted, Counted, Counted]:
    """LMUFormer, Spiking LMUFormer and the transformer."""
    rows = []
    for spiking in (False, True):
        network = LMUFormer(CLASSES, BINS, spiking=spiking, frames=FRAMES)
        memory = spike_cost(network, torch.zeros(1, FRAMES, BINS)).recurrence_macs
        name = "Spiking LMUFormer" if spiking else "LMUFormer"
        rows.append(count(name, _EveryFrame(network), (FRAMES, CLASSES), memory))
    return rows[0], rows[1], count("AST-like", AstLike(CLASSES, FRAMES, BINS), (CLASSES,))


def ratios(ours: Counted, theirs: Counted) -> dict[str, float]:
    """How many times fewer; the paper's figure for FLOPs is met by counting only convolutions, and no attention."""
    return {
        "parameters": theirs.parameters / ours.parameters,
        "MACs, convolutions of LMUFormer against layers of AST": (theirs.macs - theirs.attention) / ours.convolutions,
        "MACs, all of both": theirs.macs / ours.macs,
    }


def on_clips(checkpoint: Path, folder: Path, split: str) -> SpikeCost:
    """What a trained network costs, on all clips of a split."""
    from edgedeploy.models.native import read
    from edgedeploy.tasks.audio import read_audio
    from edgedeploy.tasks.speech_files import read_clips

    _, network, task = read(checkpoint)
    if not isinstance(network, LMUFormer):
        raise SystemExit(f"{checkpoint} holds no LMUFormer.")
    rate = task.features.sample_rate
    sounds = (read_audio(clip.path, rate, resample=True) for clip in read_clips(folder, split).clips)
    features = [torch.from_numpy(task.prepare(sound).tensors[0]) for sound in sounds]
    return spike_cost(network, torch.cat(features))


def counts_text(rows: tuple[Counted, ...]) -> list[str]:
    """Parameters and multiply-adds of a clip of 128 frames."""
    lines = ["| network | parameters | convolutions | linear | attention | memory | all MACs |", "|---|" + "---|" * 6]
    for row in rows:
        numbers = (row.parameters, row.convolutions, row.linear, row.attention, row.memory, row.macs)
        lines.append(f"| {row.name} | " + " | ".join(f"{number:,}" for number in numbers) + " |")
    return lines


def ratios_text(found: dict[str, float]) -> list[str]:
    """Beside what the paper claims."""
    lines = ["| AST-like over LMUFormer | counted | the paper, of AST |", "|---|---|---|"]
    for name, ratio in found.items():
        claim = PAPER["parameters"] if name == "parameters" else PAPER["FLOPs"]
        lines.append(f"| {name} | {ratio:.1f} | {claim} |")
    return lines


def spikes_text(cost: SpikeCost) -> list[str]:
    """Layer by layer, and the sums with the memory in either form."""

    def line(layer: LayerCost) -> str:
        rate = "real" if layer.rate is None else f"{layer.rate:.4f}"
        operations = layer.macs if layer.rate is None else round(layer.synaptic)
        return f"| {layer.name} | {layer.kind} | {layer.macs:,} | {rate} | {operations:,} | {layer.energy * 1e6:.3f} |"

    lines = [
        f"Means over {cost.clips} clips of {cost.frames} frames. Energy is a model: 4.6 pJ a MAC, 0.9 pJ an addition.",
        "Not counted: norms, neurons, shortcuts, moving data.",
        "",
        "| layer | kind | MACs | firing rate | operations | uJ, modelled |",
        "|---|---|---|---|---|---|",
        *(line(layer) for layer in (*cost.layers, *cost.recurrences, *cost.windows)),
        "",
        f"synaptic operations of the layers: {cost.synaptic:,.0f}; MACs of real inputs: {cost.real_macs:,}",
    ]
    dense = (cost.convolution_macs + cost.linear_macs) * MULTIPLY_ADD
    return [
        *lines,
        f"energy, layers only: {cost.layer_energy * 1e6:.1f} uJ; if each of their MACs were one: {dense * 1e6:.1f} uJ",
        f"with the memory as a dense recurrence: {cost.energy('recurrence') * 1e6:.1f} uJ",
        f"with the memory as a sum over the past of its signal: {cost.energy('window') * 1e6:.1f} uJ",
    ]


def frames_text(cost: SpikeCost) -> list[str]:
    """Multiply-adds of one frame of a stream."""
    parts = (*cost.layers, *cost.recurrences)
    return [
        "| layer | MACs a frame |",
        "|---|---|",
        *(f"| {part.name} | {part.macs // cost.frames:,} |" for part in parts),
        f"| all | {sum(part.macs for part in parts) // cost.frames:,} |",
    ]


def main() -> None:
    """Print the tables, or all of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spiking", type=Path, help="checkpoint of a trained network")
    parser.add_argument("--clips", type=Path, help="recordings that its spikes are counted on")
    parser.add_argument("--split", default="test")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if (arguments.spiking is None) != (arguments.clips is None):
        parser.error("--spiking and --clips go together")
    if arguments.spiking is not None:
        cost = on_clips(arguments.spiking, arguments.clips, arguments.split)
        text, document = [*spikes_text(cost), "", *frames_text(cost)], _spikes_json(cost)
    else:
        rows = counted()
        found = ratios(rows[0], rows[2])
        text = [*counts_text(rows), "", *ratios_text(found)]
        document = {"rows": [{**to_json(row), "macs": row.macs} for row in rows], "ratios": found, "paper": PAPER}
    print(json.dumps(document, indent=1) if arguments.json else "\n".join(text))


def _spikes_json(cost: SpikeCost) -> dict[str, Any]:
    energy = {form: cost.energy(form) for form in ("recurrence", "window")}
    return {**to_json(cost), "synaptic": cost.synaptic, "joules_modelled": {"layers": cost.layer_energy, **energy}}


if __name__ == "__main__":
    main()
