"""Which parts of a network are computed in fewer bits, chosen by measuring, with one search for every backend.

- `choice`: the search; what it needs of a representation of the network is a `choice.Lowering`.
- `qdq`: int8 as explicit Q/DQ nodes in ONNX.
- `placement`: the same, only on the inputs of what has weights, as compilers want them.
- `half`: fp16 as types and casts in ONNX.
- `weights`: int8 weights, and everything else in float, in ONNX.
- `recurrence`: what of an ONNX graph computes its state, and stays in float.
- `pt2e`: int8 as Q/DQ operators in an exported PyTorch program.

For exporters, which import it when they write: it needs onnx, onnxruntime or torch.
"""
