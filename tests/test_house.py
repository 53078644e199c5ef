"""The house rules: who imports whom, links that lead somewhere, ready-made files that load."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from reference import ROOT

from engine.config import RunConfig
from engine.settings import load_yaml, parse
from sweeps.space import conditions, load_study, total_trials

SOURCES = sorted(path for folder in ("engine", "sweeps") for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Full names of everything that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""


def importers(*packages: str) -> set[str]:
    """Files that import one of these packages, relative to the root."""
    return {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if any(name == p or name.startswith(f"{p}.") for name in imports(path) for p in packages)
    }


def test_there_is_something_to_look_at():
    assert len(SOURCES) > 30
    assert "engine/tracking/store.py" in importers("mlflow")
    assert "engine/pools/ray.py" in importers("engine.actors")


def test_the_engine_knows_nothing_of_studies():
    assert not {path for path in importers("sweeps", "optuna") if path.startswith("engine/")}


def test_ray_is_imported_where_processes_are_made():
    allowed = {"engine/actors.py", "engine/pools/ray.py", "engine/background.py"}
    assert {path for path in importers("ray") if not path.startswith("sweeps/")} <= allowed


def test_the_chain_is_the_ledgers_own_business():
    chain = importers(
        "web3", "eth_account", "eth_tester", "eth_utils", "eth_abi", "eth_keys", "eth", "coincurve", "Crypto"
    )
    assert chain
    assert all(path.startswith("engine/ledger/") for path in chain)


def test_only_the_tracker_knows_mlflow():
    assert importers("mlflow") == {"engine/tracking/store.py"}


def test_timegan_lives_in_its_worker():
    assert importers("ydata_synthetic", "tensorflow") == {"engine/synthesis/timegan_worker.py"}
    assert not importers("engine.synthesis.timegan_worker")
    worker = ROOT / "engine/synthesis/timegan_worker.py"
    assert not {name for name in imports(worker) if name.startswith(("engine", "sweeps"))}


def test_the_loop_knows_protocols_only():
    """`engine/rounds.py` must be readable without knowing where hospitals live or how anything is stored."""
    allowed = {
        "engine.aggregation.mean",
        "engine.errors",
        "engine.hospital",
        "engine.metrics",
        "engine.pools.base",
        "engine.result",
        "engine.seeds",
    }
    assert {name for name in imports(ROOT / "engine" / "rounds.py") if name.startswith("engine")} <= allowed
    for name in (
        "algorithms/base.py",
        "algorithms/fedavg.py",
        "algorithms/perfedavg.py",
        "aggregation/mean.py",
        "metrics.py",
    ):
        assert not {
            n for n in imports(ROOT / "engine" / name) if n.split(".")[0] in ("torch", "ray", "mlflow", "optuna")
        }


# --- Documents and ready-made files -----------------------------------------------------------------------------------

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "contracts").glob("*.md"))]
DOCUMENTS += sorted((ROOT / "deploy").rglob("*.md"))


def targets(text: str) -> list[str]:
    """Relative targets of the links and images of a Markdown text; code is no link."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    found = re.findall(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)", text)
    found += re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, flags=re.MULTILINE)
    found += re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    return [target for target in found if not re.match(r"[a-z][a-z0-9+.-]*:|#", target)]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+\s+(.+?)\s*#*$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def test_links_are_found_and_code_is_not():
    text = '[a](b.md) ![c](d/e.png "t") [f](https://x.y) [g](#h) `[i](j)`\n\n[k]: l.md\n<img src="m.svg">\n```\n[n](o)\n```\n'
    assert targets(text) == ["b.md", "d/e.png", "l.md", "m.svg"]
    assert anchors("# One `two`, three\n## [Four](x) - five\n") == {"one-two-three", "four---five"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path):
    for target in targets(document.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        place = (document.parent / name).resolve()
        assert place.exists(), f"{document.relative_to(ROOT)} links to {target}"
        assert place.is_relative_to(ROOT), f"{document.relative_to(ROOT)} links out of the repository: {target}"
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place.read_text(encoding="utf-8")), f"{document.relative_to(ROOT)}: {target}"


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.name)
def test_ready_made_files_load(path: Path):
    if path.name == "run.yaml":
        assert parse(RunConfig, load_yaml(path), path.name).name
        return
    study = load_study(load_yaml(path), path.name)
    assert total_trials(study) >= len(conditions(study)) >= 1
    assert all(name.startswith("validation/") for name in study.objectives)  # nothing is chosen by its test scores
