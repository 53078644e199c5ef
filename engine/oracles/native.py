"""The fast oracle: native.cpp, compiled for one network and this CPU at first use. docs/native.md explains both."""

import ctypes
import functools
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.errors import DataError, PulseLedgerError
from engine.files import is_own, own_cache
from engine.model import FeatureNetwork, Network, frozen_features
from engine.oracles.base import Batch, Clipped, require_clip
from engine.oracles.torch import TorchOracle

SOURCE, FEATURES, HESSIAN = (
    Path(__file__).with_name(f"{name}.cpp") for name in ("native", "features", "native_hessian")
)
Compiled = Network | FeatureNetwork
# Not -ffast-math: it would let the compiler drop NaN, and a library linked with it changes the rounding of the process.
FLAGS = tuple(
    "-std=c++17 -O3 -march=native -fno-math-errno -fno-trapping-math -ffp-contract=fast -shared -fPIC".split()
)


class NativeUnavailable(PulseLedgerError):
    """The kernel cannot be built or loaded here. The message is one sentence; TorchOracle does the same, slower."""


def compile_kernel(
    network: Compiled, flags: Sequence[str] = FLAGS, compiler: str | None = None, product: bool = False
) -> Path:
    """The library for `network`, from the cache or compiled now. Several processes may call this at once.

    Args:
        compiler: command of a C++ compiler; default is the environment's CXX, else g++, c++ or clang++.
        product: of the `cnn`, the library of Hessian-vector products.

    Raises:
        NativeUnavailable: there is no compiler, it fails, or the cache folder cannot be written.
    """
    command = _find_compiler(compiler)
    source, sizes = _sizes(network)
    arguments = [*flags, *(f"-D{name}={size}" for name, size in sizes.items())]
    version = _version(*command)
    # the product's source includes the other; it is a library of its own, as few runs need it
    text = source.read_text() + HESSIAN.read_text() * product
    source = HESSIAN if product else source
    key = json.dumps([text, command, arguments, version, _cpu()])
    try:
        path = own_cache("native") / f"{hashlib.sha256(key.encode()).hexdigest()}.so"
    except DataError as error:
        raise NativeUnavailable(f"The native kernel cannot be kept in {error}") from None
    try:
        if not _intact(path):
            _build([*command, *arguments], source, path)
    except OSError as error:
        raise NativeUnavailable(f"The native kernel cannot be kept in {path.parent}: {error}.") from error
    return path


def _sizes(network: Compiled) -> tuple[Path, dict[str, int]]:
    """The source for a network, and what it is compiled with."""
    common = {"RR": network.rr, "CLASSES": network.classes}
    if isinstance(network, FeatureNetwork):
        return FEATURES, {**common, "INPUTS": network.inputs, "FEATURES": network.features}
    return SOURCE, {
        **common,
        "LEADS": network.leads,
        "WINDOW": network.window,
        **{f"CHANNELS{i}": channels for i, channels in enumerate(network.channels, 1)},
        **{f"KERNEL{i}": kernel for i, kernel in enumerate(network.kernels, 1)},
        "HIDDEN": network.hidden,
        "GROUPS": network.groups,
        "POOLED": network.pooled,
    }


class NativeOracle:
    """The oracle of a `cnn` or of `features`, by its compiled kernel. Any number of threads may call it; the GIL is free meanwhile.

    Same input, same library: same bits. Against TorchOracle the gradient differs by rounding.
    """

    def __init__(self, network: Compiled, flags: Sequence[str] = FLAGS, compiler: str | None = None) -> None:
        """Raises NativeUnavailable, see `compile_kernel`."""
        library = _load(compile_kernel(network, flags, compiler))
        pointer, count = ctypes.c_void_p, ctypes.c_int64
        self._frozen = None if isinstance(network, Network) else _padded(network, library.features_padded())
        self._first = () if self._frozen is None else (self._frozen.ctypes.data,)  # argument of every call
        before = [pointer] * len(self._first)
        library.loss_gradient.argtypes = [*before, *[pointer] * 4, count, pointer, pointer, pointer]
        library.loss_gradient.restype = ctypes.c_double
        library.clipped_gradient.argtypes = [*before, *[pointer] * 4, count, ctypes.c_double, *[pointer] * 3]
        library.clipped_gradient.restype = None
        library.scores.argtypes = [*before, *[pointer] * 3, count, pointer]
        library.scores.restype = None
        self._library = library
        self._how = flags, compiler
        self._network = network
        self._size = network.size

    def gradient(self, params: np.ndarray, batch: Batch) -> tuple[float, np.ndarray]:
        """The mean loss and its gradient, float32[parameters].

        Raises:
            ValueError: an array has another shape than the network wants, a label is no class, or there are no beats.
        """
        params, x, rr, y = self._checked(params, batch)
        scale, added = self._changed(batch, y)
        gradient = np.empty(self._size, np.float32)
        loss = self._library.loss_gradient(
            *self._first,
            params.ctypes.data,
            x.ctypes.data,
            rr.ctypes.data,
            y.ctypes.data,
            len(y),
            gradient.ctypes.data,
            None if scale is None else scale.ctypes.data,
            None if added is None else added.ctypes.data,
        )
        return loss, gradient

    def clipped_gradient(self, params: np.ndarray, batch: Batch, clip: float) -> Clipped:
        """What differentially private SGD adds noise to (Abadi et al. 2016, arXiv 1607.00133).

        Raises:
            ValueError: as in `gradient`, `clip` is not above 0, or the batch has logit offsets.
        """
        require_clip(clip, batch)
        params, x, rr, y = self._checked(params, batch)
        weight = batch.class_weight
        scale = None if weight is None else _floats("class_weight", weight, (self._network.classes,))[y]
        total, counts = np.empty(self._size, np.float32), np.empty(2, np.int64)
        self._library.clipped_gradient(
            *self._first,
            params.ctypes.data,
            x.ctypes.data,
            rr.ctypes.data,
            y.ctypes.data,
            len(y),
            clip,
            total.ctypes.data,
            None if scale is None else scale.ctypes.data,
            counts.ctypes.data,
        )
        return Clipped(total, *counts.tolist())

    def hessian_vector(self, params: np.ndarray, batch: Batch, vector: np.ndarray) -> np.ndarray:
        """The Hessian of the loss times `vector`, float32[parameters]; takes about as long as three gradients.

        Raises:
            ValueError: as in `gradient`.
            NativeUnavailable: at the first call, which compiles what it needs.
        """
        if isinstance(self._network, FeatureNetwork):
            return self._torch.hessian_vector(params, batch, vector)
        params, x, rr, y = self._checked(params, batch)
        vector = _floats("vector", vector, (self._size,))
        scale, added = self._changed(batch, y)
        product = np.empty(self._size, np.float32)
        self._products.hessian_vector(
            params.ctypes.data,
            x.ctypes.data,
            rr.ctypes.data,
            y.ctypes.data,
            len(y),
            vector.ctypes.data,
            product.ctypes.data,
            None if scale is None else scale.ctypes.data,
            None if added is None else added.ctypes.data,
        )
        return product

    def scores(self, params: np.ndarray, x: np.ndarray, rr: np.ndarray) -> np.ndarray:
        """Logits, float32[n, classes]."""
        params = _floats("params", params, (self._size,))
        x = _floats("x", x, (len(x), self._network.leads, self._network.window))
        rr = _floats("rr", rr, (len(x), self._network.rr))
        logits = np.empty((len(x), self._network.classes), np.float32)
        self._library.scores(
            *self._first, params.ctypes.data, x.ctypes.data, rr.ctypes.data, len(x), logits.ctypes.data
        )
        return logits

    @functools.cached_property
    def _torch(self) -> TorchOracle:
        return TorchOracle(self._network)

    @functools.cached_property
    def _products(self) -> ctypes.CDLL:
        library = _load(compile_kernel(self._network, *self._how, product=True))
        pointer = ctypes.c_void_p
        library.hessian_vector.argtypes = [*[pointer] * 4, ctypes.c_int64, *[pointer] * 4]
        library.hessian_vector.restype = None
        return library

    def _changed(self, batch: Batch, y: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The factor on each beat's loss and what is added to the logits; None where nothing changes."""
        classes = (self._network.classes,)
        weight, offset = batch.class_weight, batch.logit_offset
        scale = None if weight is None else _floats("class_weight", weight, classes)[y]
        return scale, None if offset is None else _floats("logit_offset", offset, classes)

    def _checked(self, params: np.ndarray, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        n, classes = len(batch.y), self._network.classes
        if n == 0:
            raise ValueError("a batch needs at least one beat")
        y = np.asarray(batch.y)
        if y.shape != (n,) or y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= classes:
            raise ValueError(f"y must be whole numbers from 0 to {classes - 1}, one for each beat")
        return (
            _floats("params", params, (self._size,)),
            _floats("x", batch.x, (n, self._network.leads, self._network.window)),
            _floats("rr", batch.rr, (n, self._network.rr)),
            np.ascontiguousarray(y, np.int32),
        )


def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeUnavailable(f"The native kernel {path} cannot be loaded: {error}.") from error


def _padded(network: FeatureNetwork, columns: int) -> np.ndarray:
    """The frozen weights as the kernel reads them: with columns of zeros up to whole vectors."""
    frozen = np.zeros((network.inputs + 1, columns), np.float32)
    frozen[:, : network.features] = frozen_features(network)
    return frozen


def _floats(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    array = np.ascontiguousarray(array, np.float32)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, the network wants {shape}")
    return array


def _find_compiler(named: str | None) -> list[str]:
    if named := named or os.environ.get("CXX"):
        command = shlex.split(named)
        if not shutil.which(command[0]):
            raise NativeUnavailable(f"The C++ compiler {named!r} is not there; unset CXX or install it.")
        return command
    for name in ("g++", "c++", "clang++"):
        if shutil.which(name):
            return [name]
    raise NativeUnavailable("There is no C++ compiler (g++, c++, clang++ or the one that CXX names) for the kernel.")


@functools.cache
def _version(*command: str) -> str:
    """What a compiler says of itself; no process lives so long that it is replaced meanwhile."""
    return _run([*command, "--version"])


def _build(command: list[str], source: Path, path: Path) -> None:
    """Compiles to `path`: the library and, behind it, its SHA-256, as loading half a file would kill the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / "kernel.so"
        _run([*command, str(source), "-o", str(made)])
        library = made.read_bytes()
        made.write_bytes(library + hashlib.sha256(library).digest())
        made.replace(path)


def _intact(path: Path) -> bool:
    if not is_own(path):  # built by somebody else, before the folder was closed
        return False
    content = path.read_bytes()
    return hashlib.sha256(content[:-32]).digest() == content[-32:]


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeUnavailable(f"The C++ compiler {command[0]} cannot be run: {error}.") from error
    if done.returncode:
        lines = done.stderr.splitlines() or [f"exit status {done.returncode}"]
        first = next((line for line in lines if "error" in line), lines[0])
        raise NativeUnavailable(f"The C++ compiler {command[0]} failed on the kernel: {first.strip()}")
    return done.stdout


def _cpu() -> list[str]:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [platform.machine(), platform.processor()]
    wanted = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU implementer", "CPU part")
    return sorted({line for line in lines if line.split(":")[0].strip() in wanted})
