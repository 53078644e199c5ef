"""From the source of an own part to what it names: the bytes of the digest are executed, wherever they came from.

Each source is a package of its own in `sys.modules`. So files of the same name, or helpers of the same name beside them, do
not meet, and what a part imports from beside itself is what was copied with it.
"""

import builtins
import importlib.util
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.own.reference import Reference
from engine.own.source import Source, known, path_of

_lock = threading.RLock()
_ROOT = "pulseledger_own_"


def module_of(reference: Reference) -> types.ModuleType:
    """The module of an own part, executed once in a process.

    Raises:
        ConfigError: its source is not at hand.
        Exception: whatever its code raises.
    """
    source, entry = known(reference.digest), reference.entry
    with _lock:
        return _Package(source).module(entry.removesuffix(".py") if entry.endswith(".py") else entry)


def is_own_file(path: str) -> bool:
    """Whether code of a traceback is that of an own part."""
    return path in _executed


_executed: set[str] = set()


class _Package:
    """The modules of one source."""

    def __init__(self, source: Source) -> None:
        self._files: Mapping[str, bytes] = dict(source.files)
        self._origin = source.origin
        self._root = f"{_ROOT}{source.digest[:32]}"
        self._tops = {path.split("/")[0].removesuffix(".py") for path in self._files}
        if self._root not in sys.modules:
            sys.modules[self._root] = self._empty(self._root, package=True)

    def module(self, dotted: str) -> types.ModuleType:
        """A module by its name below the root, with all packages above it."""
        above, _, last = dotted.rpartition(".")
        parent = self.module(above) if above else sys.modules[self._root]
        name = f"{self._root}.{dotted}"
        if name in sys.modules:
            return sys.modules[name]
        path = path_of(self._files, dotted)
        if path is None:
            return self._without_file(name, dotted, parent)
        made = self._empty(name, package=path.endswith("/__init__.py"))
        made.__file__ = str(Path(self._origin) / path)
        _executed.add(made.__file__)
        code = compile(self._files[path], made.__file__, "exec", dont_inherit=True)
        sys.modules[name] = made
        try:
            exec(code, made.__dict__)
        except BaseException:
            del sys.modules[name]
            raise
        setattr(parent, last, made)
        return made

    def _without_file(self, name: str, dotted: str, parent: types.ModuleType) -> types.ModuleType:
        below = f"{dotted.replace('.', '/')}/"
        if not any(path.startswith(below) for path in self._files):
            raise ModuleNotFoundError(f"No module named {dotted!r}", name=dotted)
        made = sys.modules[name] = self._empty(name, package=True)
        setattr(parent, dotted.rpartition(".")[2], made)
        return made

    def _empty(self, name: str, package: bool) -> types.ModuleType:
        made = types.ModuleType(name)
        made.__package__ = name if package else name.rpartition(".")[0]
        if package:
            made.__path__ = []
        made.__dict__["__builtins__"] = {**vars(builtins), "__import__": self._import}
        return made

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        """The statement `import` in this source: what lies in it comes first."""
        if level:
            package = str((globals or {}).get("__package__", self._root))
            full = importlib.util.resolve_name(f"{'.' * level}{name}", package)
            below = full.removeprefix(self._root).lstrip(".")
        elif name.split(".")[0] in self._tops:
            below = name
        else:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        with _lock:
            leaf = self.module(below) if below else sys.modules[self._root]
            for wanted in fromlist or ():
                dotted = f"{below}.{wanted}".lstrip(".")
                if wanted != "*" and not hasattr(leaf, wanted) and path_of(self._files, dotted) is not None:
                    self.module(dotted)
        return leaf if fromlist else self.module(below.split(".")[0])
