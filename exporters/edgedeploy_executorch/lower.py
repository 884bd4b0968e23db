"""From exported programs to one .pte file: partitioned, delegated, and what was not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from edgedeploy.errors import ExportFailed
from edgedeploy.precision.program import module_of, quiet
from edgedeploy_executorch.contents import METHOD, Contents
from edgedeploy_executorch.delegates import Delegate
from edgedeploy_executorch.words import caught

#: Nodes that move values about and compute nothing.
_PLUMBING = ("executorch_call_delegate", "getitem", "alloc")


@dataclass(frozen=True)
class Lowered:
    """A finished program and, by method, what its delegate took."""

    data: bytes
    delegated: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Plan:
    """What to lower: a program per method, to which delegate, in which precision.

    ``shares_state`` makes mutable buffers of the same name in several methods one.
    """

    programs: Mapping[str, ExportedProgram]
    contents: Contents
    delegate: Delegate
    precision: str
    shares_state: bool = False


def lower(plan: Plan, etrecord: Path | None = None) -> Lowered:
    """Lower the programs into one file; ``etrecord`` is where to keep what a profile is read with.

    Raises:
        Unavailable: the delegate's compiler is not installed.
        ExportFailed: an operator that ExecuTorch has not; named with the module that it came from.
    """
    from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.passes import MemoryPlanningPass
    from executorch.exir.passes.init_mutable_pass import InitializedMutableBufferPass

    make = plan.delegate.partitioner
    partitioners = {name: [make(plan.precision)] for name in plan.programs} if make else None
    try:
        with quiet(), caught():
            edge = to_edge_transform_and_lower(
                dict(plan.programs),
                partitioner=partitioners,
                constant_methods={METHOD: plan.contents.dumps()},
                generate_etrecord=etrecord is not None,
            )
            delegated = {name: _delegated(edge.exported_program(name).graph_module) for name in plan.programs}
            _tell_apart([edge.exported_program(name) for name in plan.programs])
            config = ExecutorchBackendConfig(
                emit_mutable_buffer_names=True,  # so that a session can put state back to its start
                memory_planning_pass=MemoryPlanningPass(share_mutable_buffers=plan.shares_state),
                passes=[InitializedMutableBufferPass(_state_nodes(edge, plan.programs))],
            )
            program = edge.to_executorch(config)
            if etrecord is not None:
                program.get_etrecord().save(str(etrecord))
    except Exception as error:
        raise _explained(error, plan.programs) from error
    return Lowered(bytes(program.buffer), delegated)


def state_of(program: ExportedProgram) -> tuple[str, ...]:
    """The names of the buffers that a program changes when it runs; its signature tells only after decomposition."""
    if not _writes_buffers(program):  # decomposing takes seconds
        return tuple(dict.fromkeys(program.graph_signature.buffers_to_mutate.values()))
    with quiet():
        mutated = program.run_decompositions({}).graph_signature.buffers_to_mutate.values()
    return tuple(dict.fromkeys(mutated))


def _writes_buffers(program: ExportedProgram) -> bool:
    """Whether a node changes a buffer, or a view of one, in place."""
    views = set(program.graph_signature.inputs_to_buffers)
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None or not node.args or getattr(node.args[0], "name", None) not in views:
            continue
        if schema.is_mutable:
            return True
        if any(value.alias_info is not None for value in schema.returns):
            views.add(node.name)
    return False


def unaliased(program: ExportedProgram) -> ExportedProgram:
    """The same program, functional, in which no output is at once the new value of a buffer: XNNPACK refuses that."""
    with quiet():
        plain: ExportedProgram = program.run_decompositions({})
    signature, graph = plain.graph_signature, plain.graph_module.graph
    written = set(signature.buffers_to_mutate)
    output = graph.output_node()
    values = list(output.args[0])
    for i, spec in enumerate(signature.output_specs):
        if spec.kind is torch.export.graph_signature.OutputKind.USER_OUTPUT and values[i].name in written:
            with graph.inserting_before(output):
                copied = graph.call_function(torch.ops.aten.mul.Tensor, (values[i], 1))
            copied.meta = dict(values[i].meta)
            values[i] = copied
            spec.arg.name = copied.name
    output.args = (tuple(values),)
    plain.graph_module.recompile()
    return plain


def _state_nodes(edge: Any, methods: Mapping[str, Any]) -> list[str]:
    """The names of the nodes that hold state, so that its start is in the file: memory is not cleared otherwise."""
    found = []
    for name in methods:
        signature = edge.exported_program(name).graph_signature
        mutated = set(signature.buffers_to_mutate.values())
        found += [node for node, buffer in signature.inputs_to_buffers.items() if buffer in mutated]
    return found


def _tell_apart(programs: Sequence[ExportedProgram]) -> None:
    """Turn constants of nothing but zeros into negative zeros, which compute the same, where state starts at zero.

    ExecuTorch 1.5 stores equal tensors once, and takes state that starts as a constant is for that constant: the file
    cannot be loaded then.
    """
    if not any(program.graph_signature.buffers_to_mutate for program in programs):
        return
    for program in programs:
        changing = set(program.graph_signature.buffers_to_mutate.values())
        for held in (program.state_dict, program.constants):
            for name, value in held.items():
                plain = name not in changing and isinstance(value, torch.Tensor) and value.is_floating_point()
                if plain and value.numel() and not value.any():
                    with torch.no_grad():
                        value.fill_(-0.0)


def _delegated(module: GraphModule) -> dict[str, Any]:
    """The share of nodes that the delegate takes, and the operators left, with the modules that they came from."""
    taken, groups = 0, 0
    left: dict[str, list[str]] = {}
    for node in module.graph.nodes:
        lowered: Any = getattr(module, str(node.target), None) if node.op == "get_attr" else None
        if hasattr(lowered, "original_module"):
            inside = lowered.original_module.graph_module.graph.nodes
            taken += sum(n.op == "call_function" and _name(n.target) not in _PLUMBING for n in inside)
            groups += 1
        elif node.op == "call_function" and _name(node.target) not in _PLUMBING:
            left.setdefault(_name(node.target), []).append(_where(node))
    total = taken + sum(len(paths) for paths in left.values())
    return {
        "share": round(taken / total, 4) if total else 0.0,
        "nodes": total,
        "groups": groups,
        "fell_back": {name: list(dict.fromkeys(paths)) for name, paths in sorted(left.items())},
    }


def _where(node: Node) -> str:
    """The module that a node came from; its own name where a compiler made it."""
    if "nn_module_stack" not in node.meta:
        return node.name
    return module_of(node) or "the network itself"


def _name(target: Any) -> str:
    return str(getattr(target, "__name__", target)).removesuffix(".default")


def _explained(error: Exception, programs: Mapping[str, ExportedProgram]) -> Exception:
    """An error of ExecuTorch's compiler as `ExportFailed`, with the module that the operator came from."""
    if isinstance(error, (ExportFailed, OSError)):
        return error
    text = str(error)
    for operator in dict.fromkeys(re.findall(r"\b(?:aten|prims|torchvision|\w+)(?:\.|::)(\w+)", text)):
        for program in programs.values():
            with quiet():
                plain = program.run_decompositions()
            for node in plain.graph.nodes:
                name = getattr(node.target, "_opname", None) or str(node.target)
                if node.op == "call_function" and name == operator:
                    where = module_of(node)
                    of = f"module '{where}'" if where else "the network"
                    return ExportFailed(
                        f"ExecuTorch has no operator {node.target}, which {of} needs. Replace it in the network, "
                        "or export with --backend onnxruntime."
                    )
    return error
