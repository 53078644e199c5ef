"""What a site must not forget of a run: its private state, what it signed and what it measured, a file for each round.

Files are on disk before an answer leaves. States are kept of the newest rounds only; what was signed and measured, of all.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from engine.errors import DataError
from engine.files import whole
from engine.ledger.signer import Memory
from engine.messages import Measured, State

KEPT = 4  # rounds whose private state is kept
TABLE = "table"


class Past(NamedTuple):
    """What a hospital goes on with."""

    state: State
    memory: Memory | None
    measured: tuple[Measured, ...]


class Store:
    """The folder of one hospital in one run."""

    def __init__(self, folder: Path, hospital: int) -> None:
        self._folder, self._hospital = folder, hospital

    def bind(self, identity: str) -> None:
        """Makes the folder that of a run, or finds that it is.

        Raises:
            DataError: it is that of another run.
        """
        path = self._folder / "site.json"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            with whole(path, durable=True) as part:
                part.write_text(json.dumps({"run": identity}))
        try:
            known = json.loads(path.read_text())["run"]
        except (OSError, ValueError, KeyError, TypeError):
            raise DataError(f"{path}: is damaged.") from None
        if known != identity:
            raise DataError(
                f"{self._folder}: belongs to another run ({str(known)[:12]}, not {identity[:12]}); take another --out."
            )

    def trained(self, round: int, state: State, gradients: int, memory: Memory | None) -> None:
        """Keeps what follows from a round's work; what was signed for it before must be the same.

        Raises:
            DataError: it is not, or the disk is full.
        """
        self._write(round, {**self._promised(round, memory), "gradients": gradients}, state)
        old = [r for r in self.rounds() if r < round][: -KEPT + 1]
        for r in old:
            if self._tensors(r).keys() - {TABLE}:
                self._write(r, self._meta(r), {})

    def signed(self, round: int, memory: Memory) -> None:
        """Keeps what was signed of a round's work after it; raises DataError as `trained`."""
        state = {k: v for k, v in self._tensors(round).items() if k != TABLE}
        self._write(round, self._promised(round, memory), state)

    def _promised(self, round: int, memory: Memory | None) -> dict[str, Any]:
        """What is known of a round, with what was signed in it."""
        known = self._meta(round)
        if memory is None:
            return known
        if known.get("leaf") not in (None, memory.leaf.hex()):
            raise DataError(f"this hospital has signed another update for round {round}, and signs no second one.")
        return {**known, "leaf": memory.leaf.hex(), "parent": memory.parent_head.hex()}

    def measured(self, round: int, table: np.ndarray) -> None:
        """Keeps the confusion matrix of the model after a round."""
        state = {k: v for k, v in self._tensors(round).items() if k != TABLE}
        self._write(round, self._meta(round), state, table)

    def past(self, counted: Sequence[int], until: int) -> Past:
        """What a hospital remembers that worked in the rounds `counted`; tables up to a round.

        Raises:
            DataError: the folder lacks one of them, or no longer holds a state that is wanted.
        """
        there = self.rounds()
        metas = {r: self._meta(r) for r in there if r <= until}
        if lacking := [r for r in counted if "gradients" not in metas.get(r, {})]:
            raise DataError(
                f"{self._folder}: holds nothing of round {lacking[0]}, in which this hospital worked; put its folder back."
            )
        state: State = {}
        memory = None
        if counted:
            last = max(counted)
            if len([r for r in there if r > last and "gradients" in self._meta(r)]) >= KEPT:
                raise DataError(f"{self._folder}: the state after round {last} is too old to be there.")
            state = {k: v for k, v in self._tensors(last).items() if k != TABLE}
            if "leaf" in metas[last]:
                memory = Memory(last, bytes.fromhex(metas[last]["leaf"]), bytes.fromhex(metas[last]["parent"]))
        rows = []
        for r in metas:
            gradients = {self._hospital: int(metas[r]["gradients"])} if r in counted else {}
            tensors = self._tensors(r)
            rows.append(Measured(r, gradients, {self._hospital: tensors[TABLE]} if TABLE in tensors else {}))
        return Past(state, memory, tuple(rows))

    def rounds(self) -> list[int]:
        """That something is known of, ascending."""
        names = [path.stem.removeprefix("round-") for path in self._folder.glob("round-*.safetensors")]
        return sorted(int(name) for name in names if name.isdigit())

    def _path(self, round: int) -> Path:
        return self._folder / f"round-{round:06d}.safetensors"

    def _meta(self, round: int) -> dict[str, Any]:
        return self._read(round)[0]

    def _tensors(self, round: int) -> dict[str, np.ndarray]:
        return self._read(round)[1]

    def _read(self, round: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        path = self._path(round)
        if not path.exists():
            return {}, {}
        try:
            with safe_open(path, "numpy") as file:
                meta = json.loads(file.metadata()["meta"])
                return dict(meta), {name: np.array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            raise DataError(f"{path}: is damaged.") from None

    def _write(
        self, round: int, meta: Mapping[str, Any], state: Mapping[str, np.ndarray], table: np.ndarray | None = None
    ) -> None:
        tensors = {name: np.ascontiguousarray(array) for name, array in state.items()}
        known = self._tensors(round).get(TABLE) if table is None else table
        if known is not None:
            tensors[TABLE] = np.ascontiguousarray(known)
        with whole(self._path(round), durable=True, mode=0o600) as part:
            save_file(tensors, part, {"meta": json.dumps(meta)})
