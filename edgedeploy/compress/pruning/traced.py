"""What a network in memory costs, node by node, without exporting it: shapes alone, so that nothing is computed.

The nodes are those that its ONNX graph will have: batch normalisation is folded into the convolution before it, a SiLU
is a sigmoid and a product, what depends on no input is no node. They are counted by the tables of `edgedeploy.cost`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from edgedeploy.compress.pruning.split import skeleton
from edgedeploy.cost import GraphCost, NodeCost
from edgedeploy.cost.operators import Operator, Tensor, operations

#: Operators of ONNX by those of torch; a SiLU becomes two.
_KINDS: Mapping[str, tuple[str, ...]] = {
    "convolution": ("Conv",),
    "silu": ("Sigmoid", "Mul"),
    "silu_": ("Sigmoid", "Mul"),
    "sigmoid": ("Sigmoid",),
    "cat": ("Concat",),
    "split": ("Split",),
    "split_with_sizes": ("Split",),
    "max_pool2d_with_indices": ("MaxPool",),
    "upsample_nearest2d": ("Resize",),
    "_softmax": ("Softmax",),
    "transpose": ("Transpose",),
    "permute": ("Transpose",),
    "clone": ("Transpose",),
    "add": ("Add",),
    "sub": ("Sub",),
    "mul": ("Mul",),
    "div": ("Div",),
    "mm": ("MatMul",),
    "bmm": ("MatMul",),
}
#: Folded into what stands before it, or another view of the same bytes.
_FREE = frozenset(
    (
        *("native_batch_norm", "_native_batch_norm_legit_no_training", "view", "_unsafe_view", "reshape", "expand"),
        *("t", "unsqueeze", "squeeze", "select", "slice", "alias", "detach"),
    )
)
#: Made after the shape of a tensor, not of what is in it.
_SHAPED = frozenset({"new_full", "new_empty", "new_zeros", "zeros_like", "ones_like", "empty_like"})


def traced_cost(network: Any, size: tuple[int, int], step: int = 1) -> GraphCost:
    """Operations and bytes of every node of a detector's graph, for one image, in float32.

    Args:
        network: of Ultralytics' classes, batch normalisation not folded; it is left as it is.
        size: (height, width) of the input.
        step: channels of a convolution that are computed at once: its operations are those of the next multiple.
    """
    twin = skeleton(network)
    head = twin.model[-1]
    head.training, head.export, head.shape = False, True, None
    with torch.no_grad(), _Recorder(step) as recorder:
        image = torch.empty(1, 3, *size, device="meta")
        recorder.depends(image)
        twin(image)
    unknown = dict.fromkeys(node.kind for node in recorder.nodes if node.kind not in recorder.counted)
    return GraphCost(tuple(recorder.nodes), tuple(unknown))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operator that depends on the image."""

    def __init__(self, step: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nodes: list[NodeCost] = []
        self.counted: set[str] = set()
        self._step = step
        self._names: dict[int, str] = {}
        self._alive: list[torch.Tensor] = []  # an id is only one as long as its tensor lives

    def depends(self, tensor: torch.Tensor, name: str | None = None) -> str:
        """Give a tensor that depends on the image its name: that of another one, where it is only a view of it."""
        self._alive.append(tensor)
        return self._names.setdefault(id(tensor), name or f"t{len(self._alive)}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = list(_tensors(args))
        active = [tensor for tensor in given if id(tensor) in self._names]
        name = func.overloadpacket.__name__
        if not active or name in _SHAPED:
            return out
        made = [tensor for tensor in _tensors((out,)) if tensor.numel()]
        if name in _FREE:
            for tensor in made:
                self.depends(tensor, self._names[id(active[0])])
            return out
        for tensor in made:
            self.depends(tensor)
        if name == "max_pool2d_with_indices":
            made = made[:1]
        self._note(name, given, made, args)
        return out

    def _note(self, name: str, given: list[torch.Tensor], made: list[torch.Tensor], args: Any) -> None:
        for kind in _KINDS.get(name, (name,)):
            taken = [*given, made[0]] if name.startswith("silu") and kind == "Mul" else given
            inputs = tuple(self._tensor(tensor) for tensor in taken)
            outputs = tuple(self._tensor(tensor) for tensor in made)
            attributes = {"kernel_shape": tuple(args[1])} if kind == "MaxPool" else {}
            wide = self._padded(inputs, outputs) if kind == "Conv" else (inputs, outputs)
            flops = operations(Operator(kind, attributes, *wide))
            if flops is not None:
                self.counted.add(kind)
            reads = tuple((tensor.name, tensor.bytes) for tensor in inputs if not tensor.constant)
            writes = tuple((tensor.name, tensor.bytes) for tensor in outputs)
            self.nodes.append(
                NodeCost(
                    name=f"{kind}_{len(self.nodes)}",
                    kind=kind,
                    flops=flops or 0,
                    read=sum(size for _, size in reads),
                    written=sum(size for _, size in writes),
                    weights=sum(tensor.bytes for tensor in inputs if tensor.constant),
                    dtype="fp32",
                    shape=tuple(made[0].shape),
                    inputs=reads,
                    outputs=writes,
                )
            )

    def _tensor(self, tensor: torch.Tensor) -> Tensor:
        name = self._names.get(id(tensor))
        return Tensor(name or f"c{id(tensor)}", tuple(tensor.shape), "fp32", constant=name is None)

    def _padded(
        self, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """As wide as it is computed: kernels fill up what channels they lack; few inputs have kernels of their own."""
        image, weight = inputs[0], inputs[1]
        assert image.shape is not None
        assert weight.shape is not None
        assert outputs[0].shape is not None
        batch, channels, *sides = outputs[0].shape
        deep = weight.shape[1]
        whole = deep < self._step or deep < image.shape[1]  # grouped ones are not filled up either
        depth = deep if whole else _multiple(deep, self._step)
        out = _multiple(channels, self._step) if deep == image.shape[1] else channels
        filters = Tensor(weight.name, (out, depth, *weight.shape[2:]), weight.dtype, constant=True)
        return (image, filters, *inputs[2:]), (Tensor(outputs[0].name, (batch, out, *sides), "fp32"),)


def _multiple(number: int, step: int) -> int:
    return math.ceil(number / step) * step


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
