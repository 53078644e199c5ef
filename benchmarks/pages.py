"""How long the pages of the dashboard take, and how large they are: a study of 1,000 trials, a run of 1,000 hospitals.

    python benchmarks/pages.py STUDY                        # its finished trials again and again, up to 1,000
    python benchmarks/pages.py STUDY --hospitals 1000       # and a run of so many hospitals on the simulated records
    python benchmarks/pages.py STUDY --json

The folders are made anew in a temporary place. Asked are the pages themselves, without a network: `first` is the time until the page is
there, with all that is read and computed for it, `again` that of the next visit.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from starlette.testclient import TestClient

from dashboard.app import build
from dashboard.desk import Desk
from dashboard.doorman import ROLES, Doorman
from dashboard.judging import Judges
from dashboard.places import Places
from engine.config import RunConfig
from engine.experiment import run
from engine.settings import parse
from sweeps.folder import read_study, read_trials, trial_folder
from sweeps.queue import open_studies
from sweeps.storage import driver_storage

ORIGIN = "http://127.0.0.1:8080"
LARGE: dict[str, Any] = {
    "name": "large",
    "data": {"source": "simulated", "window": [90, 162], "simulated": {"minutes": 1}},
    "model": {"channels": [8, 8, 8], "hidden": 8},
    "federation": {"rounds": 2, "min_hospitals": 1},
    "personalisation": {"steps": 1},
    "tracking": {"backend": "none"},
    "execution": {"pool": "inprocess"},
}


def many(source: Path, target: Path, trials: int) -> None:
    """A study with the finished trials of another one again and again, their objectives changed a little."""
    shutil.copytree(source, target)
    study = read_study(target)
    number = 1 + max(t.number for t in read_trials(study, target))
    with driver_storage(study, target, print) as storage:
        opened = [one for one, _ in open_studies(study, target, storage)]
        sources = [(one, frozen) for one in opened for frozen in one.get_trials() if frozen.state.name == "COMPLETE"]
        while number < trials:
            for place, frozen in sources:
                values = [value - 1e-6 * number for value in frozen.values]
                attributes = {**frozen.user_attrs, "trial": number}
                place.add_trial(
                    optuna.trial.create_trial(
                        values=values,
                        params=frozen.params,
                        distributions=frozen.distributions,
                        user_attrs=attributes,
                        system_attrs=frozen.system_attrs,
                    )
                )
                old = trial_folder(target, frozen.user_attrs["trial"])
                shutil.copytree(old, trial_folder(target, number), copy_function=lambda a, b: Path(b).hardlink_to(a))
                number += 1


def pages(home: Path, addresses: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """A line for each page: role, address, seconds, bytes."""
    with tempfile.TemporaryDirectory() as uploads:
        desk = Desk(Places([home]), Doorman(ROLES), Judges(), Path(uploads))
        for role, address in addresses:
            client = TestClient(build(desk, [ORIGIN]), base_url=ORIGIN, follow_redirects=False)
            client.get("/login", params={"key": desk.doorman.link(role)})  # type: ignore[arg-type]
            began = time.perf_counter()
            while (answer := client.get(address)).status_code == 202:
                time.sleep(0.1)
            first, began = time.perf_counter() - began, time.perf_counter()
            answer = client.get(address)
            again = time.perf_counter() - began
            yield {
                "page": address,
                "status": answer.status_code,
                "first": first,
                "again": again,
                "bytes": len(answer.content),
            }
        desk.work.close()


def measure(study: Path, trials: int, hospitals: int) -> list[dict[str, Any]]:
    """All pages of both folders."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        many(study, home / "many", trials)
        asked = [("owner", "/"), ("owner", "/studies/many"), ("owner", "/studies/many?page=7"), ("owner", f"/studies/many/trials/{trials - 1}")]  # fmt: skip
        asked += [("auditor", "/audit"), ("auditor", "/audit/many/registration"), ("reviewer", "/requests")]
        if hospitals:
            values = {**LARGE, "cohort": {"hospitals": hospitals}}
            values["data"] = {**LARGE["data"], "simulated": {**LARGE["data"]["simulated"], "patients": hospitals}}
            (home / "large").mkdir()
            run(parse(RunConfig, values, "large"), home / "large")
            asked += [("owner", "/runs/large"), ("owner", "/runs/large?page=10")]
            asked += [("auditor", f"/audit/large/{room}") for room in ("journal", "governance", "privacy")]
        return list(pages(home, asked))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--hospitals", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    lines = measure(options.study, options.trials, options.hospitals)
    if options.json:
        print(json.dumps(lines))
        return
    print(f"{'page':44} {'status':>6} {'first s':>8} {'again s':>8} {'kB':>7}")
    for one in lines:
        print(f"{one['page']:44} {one['status']:6} {one['first']:8.2f} {one['again']:8.2f} {one['bytes'] / 1000:7.0f}")


if __name__ == "__main__":
    main()
