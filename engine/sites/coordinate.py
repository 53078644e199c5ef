"""The coordinator's side of a run whose hospitals are at sites: opens the gate, waits for them, makes a cohort of what they tell."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.data.cohort import Cohort, HospitalData
from engine.data.config import CohortConfig, DataConfig
from engine.encoding import canonical_json
from engine.errors import DataError, HospitalError
from engine.hospital import Task
from engine.pools.sites import SitesPool
from engine.sites.gate import Gate, Item
from engine.sites.orders import WIRE, Share, identity_of
from engine.sites.share import cohort_of, require_share


def certificates_of(config: RunConfig) -> Path:
    """Where the coordinator's certificate lies."""
    return Path(config.execution.certificates or config.ledger.keystore or ".")


def told_config(config: RunConfig) -> str:
    """The configuration as sites are told it, JSON: without what is the coordinator's own business, such as where its files lie."""
    plain: dict[str, Any] = config.model_dump(mode="json")
    of_file = isinstance(config.data.patients, str) and config.data.patients.lower().endswith(".csv")
    theirs: dict[str, Any] = {"source": "simulated", "folder": None, "records": "all", "exclude": [], "simulated": {}}
    patients = None if of_file else plain["data"]["patients"]
    kept = {key: plain["ledger"][key] for key in ("checks", "reputation")}
    kept["backend"] = "none" if config.ledger.backend == "none" else "embedded"
    kept["keystore"] = "told" if config.ledger.keystore else None
    plain["data"] |= {**theirs, "patients": patients}
    plain |= {"out": None, "tracking": {"backend": "none"}, "ledger": kept, "execution": {"pool": "sites"}}
    return canonical_json(plain)


@contextlib.contextmanager
def sited(config: RunConfig, note: Callable[[str], None]) -> Iterator["Sites"]:
    """A gate for a run, open for as long as the run goes on; sites are told that it is over only if it ends well."""
    told = told_config(config)
    gate = Gate(told, config.cohort.hospitals, certificates_of(config), config.execution.listen)
    note(f"configuration {identity_of(told)[:16]}, as hospitals may have it expected")
    note(f"waiting for {config.cohort.hospitals} hospitals at port {gate.port}")
    try:
        yield Sites(gate, config)
    except BaseException:
        gate.close(over=False)
        raise
    gate.close(over=True)


class Sites:
    """What `experiment.Place` wants of them."""

    def __init__(self, gate: Gate, config: RunConfig) -> None:
        self._gate, self._config = gate, config

    def cohort(self, data: DataConfig, config: CohortConfig, progress: Callable[[str], None]) -> Cohort:
        """Waits until every hospital has joined and told of its data.

        Raises:
            HospitalError: one has not in time, or cannot use its records.
            DataError: what they tell does not go together.
        """
        hospitals = range(self._config.cohort.hospitals)
        items = {h: Item("share", 0, WIRE.pack(None)) for h in hospitals}
        found = self._gate.ask(items, self._config.execution.deadline)
        for h in hospitals:
            if isinstance(found[h], HospitalError):
                raise found[h]
            try:
                require_share(found[h], data)
            except DataError as error:
                raise HospitalError(h, 0, "share", str(error).rstrip(".")) from None
        shares: list[Share] = [found[h] for h in hospitals]
        return cohort_of(shares, config)

    def pool(self, hospitals: Sequence[HospitalData], task: Task) -> SitesPool:
        """The hospitals behind the gate."""
        return SitesPool(self._gate, hospitals, task)
