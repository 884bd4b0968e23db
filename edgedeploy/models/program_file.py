"""The file of an ``ExportedProgram``, looked at part by part before torch reads any of it.

``torch.export.load`` is no safe reader: it evaluates symbolic expressions and guards as Python, looks functions up by
name, makes source code of node names, unpickles constants and loads compiled libraries. So nothing is passed on that is
not known to be harmless: `vetted` writes a new archive of the parts that a program needs, in which every text is either
a plain name or of a form that is checked. Torch reads the copy, so that two readers cannot see two files in one.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgedeploy.errors import Untrusted, UsageError

_PLAIN = re.compile(r"[\w.@+-]*")
_OPERATOR = re.compile(
    r"torch\.ops\.(?:aten|prims|quantized_decomposed|torchao)"
    r"\.(?:(?!__|save\b|from_file\b)\w+|__i?(?:and|or|xor|lshift|rshift)__)(?:\.[A-Za-z]\w*)?"
    r"|torch\.ops\.higher_order\.(?:cond|while_loop|scan|map_impl|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|torch\.(?:_sym|sym)_\w+"
    r"|_operator\.(?:add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|xor|not_|getitem)"
    r"|math\.[a-z]\w*"
)
#: Arithmetic over dimensions, as sympy's srepr writes it.
_EXPRESSION = re.compile(
    r"(?:Symbol|Integer|Rational|Float|Add|Mul|Pow|Max|Min|Mod|PythonMod|ModularIndexing|FloorDiv|CeilDiv|CleanDiv"
    r"|CeilToInt|FloorToInt|TruncToInt|TruncToFloat|RoundToInt|ToFloat|IntTrueDiv|FloatTrueDiv|PowByNatural|FloatPow"
    r"|Where|And|Or|Not|Equality|Unequality|LessThan|StrictLessThan|GreaterThan|StrictGreaterThan|Identity"
    r"|(?:positive|nonnegative|integer|real|finite|precision)=|True|False|true|false|-?(?:int_)?oo|[suzf]\d+"
    r"|'[a-z]+\d+'|'-?\d*\.?\d+(?:e[+-]?\d+)?'|\d+|[\s()+\-*/,<>&|])*"
)
#: Containers of inputs and outputs; others import modules by name.
_CONTAINERS = {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
#: Parts that a program is read from; the folder before them is named after the file.
_KNOWN = re.compile(
    r"[^/]+/(?:models/model\.json|data/(?:weights|constants|sample_inputs)/[\w.-]+"
    r"|archive_format|archive_version|byteorder|version|\.data/\w+)"
)
#: Parts that torch's reader does not need, and that are left out of the copy.
_EXTRA = re.compile(r"[^/]+/extra/.*", re.DOTALL)
_JSON_LIMIT, _RATIO = 256 << 20, 200


def vetted(path: Path) -> io.BytesIO:
    """A copy of the archive at ``path`` that ``torch.export.load`` may read (with pickles restricted).

    Raises:
        Untrusted: a part, function, expression or name that no exported program needs.
        UsageError: damaged, or no exported program.
    """
    copy = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as target:
            members = archive.infolist()
            total = sum(info.file_size for info in members)
            if total > _RATIO * max(path.stat().st_size, 1 << 20):
                raise Untrusted(f"{path} would unpack to {total} bytes, which no exported program does. Do not use it.")
            if not any(info.filename.endswith("/models/model.json") for info in members):
                raise UsageError(f"{path} is no exported program: it has no part models/model.json.")
            if len({info.filename for info in members}) != len(members):
                raise Untrusted(f"{path} holds a part twice, which no exported program does. Do not use it.")
            for info in members:
                if _EXTRA.fullmatch(info.filename) is None:
                    target.writestr(info.filename, _part(path, info, archive))
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RecursionError,
        RuntimeError,
        ValueError,
        EOFError,
        OSError,
    ) as error:
        raise UsageError(f"{path} is damaged or truncated ({error}). Copy or export it again.") from error
    copy.seek(0)
    return copy


def _part(path: Path, info: zipfile.ZipInfo, archive: zipfile.ZipFile) -> bytes:
    name = info.filename
    if _KNOWN.fullmatch(name) is None:
        raise Untrusted(f"{path} holds {name[:80]!r}, which no exported program needs. Do not use it.")
    if not name.lower().endswith(".json"):
        return archive.read(info)
    if info.file_size > _JSON_LIMIT:
        raise Untrusted(f"{path}: {name} unpacks to {info.file_size} bytes. Do not use it.")
    data = json.loads(archive.read(info))
    if not isinstance(data, dict):
        raise UsageError(f"{path} is damaged: {name} is not a record. Copy or export it again.")
    if name.endswith("/models/model.json"):
        _strip(data)
    for text in _foreign(data, constants="/constants/" in name):
        raise Untrusted(f"{path} names {text[:80]!r}, which no exported program needs. Do not use it.")
    return json.dumps(data).encode()


def _strip(program: dict[str, Any]) -> None:
    """Remove what is only for debugging or checked anyway: guards (Python code), and metadata but the module path."""
    program["guards_code"] = []
    stack: list[Any] = [program]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if isinstance(item.get("metadata"), dict):
                item["metadata"] = {k: v for k, v in item["metadata"].items() if k == "nn_module_stack"}
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _foreign(data: object, constants: bool) -> Iterator[str]:
    """Every text that is not of its expected form; keys too, because torch makes source code of some."""
    stack: list[tuple[str, object]] = [("", data)]
    while stack:
        key, value = stack.pop()
        if isinstance(value, dict):
            if key != "range_constraints":  # expressions, which torch only compares
                yield from (name for name in value if _PLAIN.fullmatch(name) is None)
            stack.extend(value.items())
        elif isinstance(value, list):
            stack.extend((key, item) for item in value)
        elif isinstance(value, str) and not _harmless(key, value, constants):
            yield value


def _harmless(key: str, text: str, constants: bool) -> bool:
    match key:
        case "target" | "as_operator":
            return _OPERATOR.fullmatch(text) is not None
        case "expr_str":
            return _EXPRESSION.fullmatch(text) is not None
        case "in_spec" | "out_spec":
            return not list(_containers(json.loads(text)))
        case "path_name" if constants:  # others are unpickled without restriction
            return re.fullmatch(r"tensor_\w+", text) is not None
        case "as_string" | "as_strings" | "nn_module_stack":  # quoted, or never part of code
            return True
        case _:
            return _PLAIN.fullmatch(text) is not None


def _containers(data: object) -> Iterator[str]:
    """What in a tree of containers is not plain: types by name, and the keys of mappings as JSON in JSON."""
    stack: list[tuple[str, object]] = [("", data)]
    while stack:
        key, value = stack.pop()
        if isinstance(value, dict):
            stack.extend(value.items())
        elif isinstance(value, list):
            stack.extend((key, item) for item in value)
        elif isinstance(value, str) and key == "type":
            if value not in _CONTAINERS:
                yield value
        elif isinstance(value, str) and key == "context":
            stack.append(("keys", json.loads(value)))
        elif isinstance(value, str) and _PLAIN.fullmatch(value) is None:
            yield value
