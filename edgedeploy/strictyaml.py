"""YAML of a file that anybody may have written: plain values only, and nothing that is said twice."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from edgedeploy.errors import Unavailable, UsageError


def read(text: str, where: str) -> object:
    """The value that ``text`` describes: mappings, lists, text, numbers, booleans; ``where`` names the file.

    Raises:
        UsageError: not YAML, a key that repeats, an anchor or a tag.
    """
    yaml = _yaml()
    try:
        return yaml.load(text, Loader=_loader())
    except yaml.YAMLError as error:
        raise UsageError(f"{where} is not YAML that can be read: {' '.join(str(error).split())}.") from error
    except (ValueError, RecursionError) as error:  # dates and numbers that YAML knows and Python refuses; depth
        raise UsageError(f"{where} has a value that cannot be read: {error}.") from error


def write(value: object, path: Path | None = None) -> str:
    """``value`` as YAML; also to ``path``, in one step: whoever reads sees the old file or the whole new one.

    Raises:
        UsageError: ``path`` cannot be written.
    """
    # Not allow_unicode: line separators would be written as they are, and read back as something else.
    text: str = _yaml().safe_dump(value, sort_keys=False, width=120)
    if path is not None:
        try:
            _replace(path, text)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
    return text


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _yaml() -> ModuleType:
    try:
        import yaml
    except ImportError:
        raise Unavailable("PyYAML is not installed here. Install it with: pip install 'pyyaml>=6'") from None
    return yaml


@functools.cache
def _loader() -> type:
    """YAML's safe loader, which refuses besides: repeated keys, and the anchors and tags that nothing here needs."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            if event.anchor is not None or getattr(event, "tag", None) is not None:
                raise yaml.composer.ComposerError(None, None, "anchors and tags are not read", event.start_mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for key, _ in node.value:
                if str(key.value) in seen:
                    mark = key.start_mark
                    raise yaml.constructor.ConstructorError(None, None, f"the key '{key.value}' repeats", mark)
                seen.add(str(key.value))
            return super().construct_mapping(node, deep)

    return Loader
