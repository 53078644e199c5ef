"""Settings of the virtual clock: how fast hospitals compute and send, when they are away, what it takes."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from engine.settings import Mistake, Section

LISTED = "listed"
_FLEETS = ("none", "equal", "stragglers", "bpfish", LISTED)


class DeviceConfig(Section):
    """One hospital of a fleet that is listed: a row of its CSV file."""

    cycles: float = Field(20_000.0, gt=0, le=1e12, description="CPU cycles for the gradient of one beat")
    frequency: float = Field(2e9, gt=0, le=1e12, description="CPU cycles a second")
    uplink: float = Field(1e7, gt=0, le=1e15, description="bit/s to the coordinator")
    downlink: float = Field(1e7, gt=0, le=1e15, description="bit/s from it")
    watts: float = Field(1.0, ge=0, le=1e6, description="power of the radio while it sends")
    dropout: float = Field(0.0, ge=0, le=0.99, description="share of its jobs that are lost")


class ClockConfig(Section):
    """The virtual clock. All times follow from the run's seed, hospital and job."""

    fleet: Literal["none", "equal", "stragglers", "bpfish", "listed"] = Field(
        "none",
        description="hospitals that are all alike, some of which are slow, or drawn as in BPFISH; listed: those of `devices`; "
        "a path ending in .csv: those of a file with the columns of `devices`, one row a hospital; none: no time is kept",
    )
    devices: tuple[DeviceConfig, ...] = Field((), description="fleet listed: one for each hospital")
    share: float = Field(
        0.2, ge=0, le=1, description="stragglers: share of the hospitals that are slow, drawn by the seed"
    )
    slow: tuple[int, ...] | None = Field(None, description="stragglers: ids of those; null: as many as `share` says")
    factor: float = Field(10.0, ge=1, le=1e6, description="stragglers: how much longer they compute and send")
    cycles: float = Field(
        20_000.0, gt=0, le=1e12, description="equal, stragglers: CPU cycles for the gradient of one beat"
    )
    frequency: float = Field(2e9, gt=0, le=1e12, description="equal, stragglers: CPU cycles a second")
    gradient_seconds: float | None = Field(
        None, gt=0, le=1e6, description="measured seconds for the gradient of one batch; null: by cycles and frequency"
    )
    uplink: float = Field(1e7, gt=0, le=1e15, description="equal, stragglers: bit/s to the coordinator")
    downlink: float = Field(1e7, gt=0, le=1e15, description="equal, stragglers: bit/s from it")
    sinr: float | None = Field(
        None, ge=-50, le=100, description="dB: both rates are then bandwidth * log2(1 + SINR), as of Shannon"
    )
    bandwidth: float = Field(2e7, gt=0, le=1e12, description="Hz, with sinr")
    watts: float = Field(1.0, ge=0, le=1e6, description="equal, stragglers: power of the radio while it sends")
    kappa: float = Field(1e-28, ge=0, le=1, description="chip coefficient: a cycle takes kappa * frequency^2 joules")
    jitter: float = Field(0.0, ge=0, le=3, description="sigma of a lognormal factor on each job's computing")
    dropout: float = Field(
        0.0, ge=0, le=0.99, description="share of all jobs that are lost, unless the fleet is listed"
    )
    on: float | None = Field(None, gt=0, le=1e9, description="mean seconds between absences; null: there are none")
    off: float = Field(60.0, gt=0, le=1e9, description="mean seconds of an absence; both are exponential")
    night: float = Field(
        0.0, ge=0, le=0.95, description="share of each day in which a hospital is away, at hours of its own"
    )
    day: float = Field(86_400.0, gt=0, le=1e9, description="seconds of a day")
    block: float = Field(0.0, ge=0, le=1e6, description="seconds until a round's model is on the ledger")
    target: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="validation macro-F1 of the global model; the result tells when a round first reached it, and for how many joules",
    )

    @model_validator(mode="before")
    @classmethod
    def _read(cls, values: Any) -> Any:
        """The rows of a CSV file take its place, so that a configuration says all by itself."""
        fleet = values.get("fleet") if isinstance(values, dict) else None
        if not isinstance(fleet, str) or fleet in _FLEETS or not fleet.endswith(".csv"):
            return values
        return {**values, "fleet": LISTED, "devices": _rows(Path(fleet))}

    def clashes(self) -> Iterator[Mistake]:
        if (self.fleet == LISTED) != bool(self.devices):
            yield Mistake("fleet listed and devices go together, one for each hospital", ["fleet", "devices"])

    @property
    def runs(self) -> bool:
        """Whether time is kept."""
        return self.fleet != "none"

    def problem(self, hospitals: int) -> str:
        """Why the fleet does not fit so many hospitals; "" if it does."""
        if self.fleet == LISTED and len(self.devices) != hospitals:
            return f"clock.devices lists {len(self.devices)} hospitals, cohort.hospitals is {hospitals}"
        if self.fleet == "stragglers" and (beyond := [h for h in self.slow or () if not 0 <= h < hospitals]):
            return f"clock.slow: there is no hospital {beyond[0]}; they are 0 to {hospitals - 1}"
        return ""

    def used(self) -> dict[str, Any]:
        """Only what the fleet reads."""
        if not self.runs:
            return {"fleet": "none"}
        drawn = ("cycles", "frequency", "uplink", "downlink", "sinr", "bandwidth", "watts")
        unread = {
            "equal": ("devices", "share", "slow", "factor"),
            "stragglers": ("devices",),
            "bpfish": ("devices", "share", "slow", "factor", *drawn),
            LISTED: ("share", "slow", "factor", "dropout", *drawn),
        }[self.fleet]
        values = self.model_dump(mode="json")
        return {name: value for name, value in values.items() if name not in unread}


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a fleet's file, as settings.

    Raises:
        ValueError: it cannot be read, or holds something else.
    """
    names = tuple(DeviceConfig.model_fields)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # tables save with a mark in front
            reader = csv.DictReader(file, strict=True)
            rows, heads = list(reader), list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if twice := [name for name in heads if heads.count(name) > 1]:
        raise ValueError(f"{path}: column {twice[0]} stands twice")
    found: list[dict[str, Any]] = []
    for number, row in enumerate(rows, 1):
        if unknown := [name for name in row if name not in names]:
            raise ValueError(f"{path}: no column is called {unknown[0]!r}; allowed: {', '.join(names)}")
        if missing := [name for name, value in row.items() if not value]:
            raise ValueError(f"{path}, row {number}: has no {missing[0]}")
        try:
            found.append({name: float(value) for name, value in row.items()})
            DeviceConfig.model_validate(found[-1])
        except (TypeError, ValueError) as error:
            why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise ValueError(f"{path}, row {number}: {why}") from None
    if not found:
        raise ValueError(f"{path} lists no hospital")
    return found
