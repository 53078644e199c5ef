"""The house rules: who imports whom, links that lead somewhere, ready-made files that load."""

import ast
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from reference import ROOT

from engine.aggregation.build import build_rule
from engine.aggregation.config import AggregationConfig, ServerConfig
from engine.aggregation.server import build_step
from engine.algorithms.build import build_algorithm
from engine.algorithms.config import METHODS, FederationConfig, PersonalisationConfig
from engine.algorithms.perfedavg import COST
from engine.attacks.config import AttackConfig
from engine.attacks.poison import conduct
from engine.config import RunConfig
from engine.model import FeatureNetwork, ModelConfig, build_network
from engine.privacy.build import build_privacy
from engine.privacy.config import PrivacyConfig
from engine.schedule.build import build_schedule
from engine.schedule.config import ScheduleConfig, SelectionConfig
from engine.schedule.selection import build_policy
from engine.settings import dotted_keys, load_yaml, parse, words
from engine.synthesis.config import BALANCE_KEYS
from sweeps.checks import load_study
from sweeps.space import conditions
from sweeps.tuned import total_trials

SOURCES = sorted(path for folder in ("engine", "sweeps", "dashboard") for path in (ROOT / folder).rglob("*.py"))


@functools.cache
def statements(path: Path) -> tuple[ast.AST, ...]:
    """What a file imports from where, as it is written."""
    found = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return tuple(node for node in found if isinstance(node, ast.Import | ast.ImportFrom))


def imports(path: Path) -> Iterator[str]:
    """Full names of everything that a file imports, also inside functions."""
    for node in statements(path):
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


def module(path: Path) -> str:
    """Dotted name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def ours(path: Path) -> set[str]:
    """Modules of ours that a file imports, packages' faces apart."""
    known = {module(source) for source in SOURCES}
    return {name for name in named(path) if name in known} - {module(path)}


def named(path: Path) -> Iterator[str]:
    """As `imports`, and what is imported from each, which may be a module, too."""
    for node in statements(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_there_is_something_to_look_at():
    assert len(SOURCES) > 30
    assert "engine/tracking/store.py" in importers("mlflow")
    assert "engine/pools/ray.py" in importers("engine.actors")
    assert "engine.pools.local" in ours(ROOT / "engine/pools/ray.py")


# --- Walls ------------------------------------------------------------------------------------------------------------

# a part of the house -> the only modules of ours (or packages, with a star) that it may import
MAY: dict[str, str] = {
    "engine/errors.py": "",
    "engine/seeds.py": "",
    "engine/clock.py": "",
    "engine/encoding.py": "",
    "engine/metrics.py": "",
    "engine/files.py": "engine.errors",
    "engine/settings.py": "engine.errors engine.encoding engine.files",
    "engine/provenance.py": "engine",
    "engine/messages.py": "engine.errors engine.result engine.config engine.model",
    "engine/rounds.py": "engine.timing.report engine.clock engine.errors engine.messages engine.metrics engine.result engine.ledger.base engine.secure.round",
    "engine/own": "engine.own.* engine.errors engine.encoding engine.files engine.settings",
    "engine/algorithms": "engine.algorithms.* engine.own.* engine.data.samples engine.messages engine.model engine.oracles.base "
    "engine.privacy.base engine.settings engine.errors engine.metrics",
    "engine/privacy": "engine.privacy.* engine.own.* engine.data.samples engine.messages engine.model engine.oracles.base engine.settings engine.errors "
    "engine.encoding engine.part engine.seeds",
    "engine/aggregation": "engine.aggregation.* engine.algorithms.build engine.config engine.messages engine.own.* "
    "engine.ledger.format engine.secure.config engine.settings engine.errors",
    "engine/schedule": "engine.schedule.* engine.own.* engine.result engine.messages engine.seeds engine.errors engine.settings engine.clock engine.timing.*",
    "engine/secure": "engine.secure.* engine.messages engine.config engine.settings engine.encoding engine.errors engine.files",
    "engine/part.py": "",
    "engine/timing": "engine.timing.* engine.part engine.seeds engine.errors engine.settings",
    "engine/association": "engine.association.* engine.part engine.seeds engine.errors engine.settings engine.encoding engine.timing.*",
    "engine/levels": "engine.levels.* engine.part engine.settings engine.metrics",
    "engine/ledger/format.py": "",
    "engine/ledger/typed.py": "engine.encoding engine.errors",
    "engine/ledger/trees.py": "engine.encoding engine.errors engine.ledger.format",
    "engine/ledger/store.py": "engine.clock engine.errors engine.files engine.ledger.format",
    "engine/ledger/accounts.py": "engine.ledger.config engine.ledger.format engine.ledger.keyfiles engine.ledger.signing "
    "engine.encoding engine.errors engine.files",
    "engine/ledger/chain": "engine.ledger.chain.* engine.ledger.accounts engine.ledger.config engine.ledger.format "
    "engine.ledger.signing engine.ledger.typed engine.clock engine.encoding engine.errors engine.files",
    "engine/ledger/book.py": "engine.ledger.chain.* engine.ledger.config engine.ledger.delivery engine.ledger.format "
    "engine.ledger.store engine.ledger.subject engine.ledger.typed engine.clock engine.encoding engine.errors",
    # a subject stands on the book; of what lies below it knows the chain's calls and answers
    "engine/ledger/subjects": "engine.ledger.subjects.* engine.ledger.book engine.ledger.chain.* engine.ledger.config "
    "engine.ledger.delivery engine.ledger.format engine.ledger.signing engine.ledger.store engine.ledger.subject engine.ledger.trees "
    "engine.ledger.typed engine.clock engine.data.config engine.encoding engine.errors engine.synthesis.config",
    "engine/audit": "engine.audit.* engine.ledger.format engine.ledger.chain.* engine.encoding engine.errors "
    "engine.data.config engine.files engine.clock",
}
# of the studies' wing, what only reads
READERS = (
    "space owners tuned checks cohorts source keys definition scores text answer methods drawing exhibits places stored folder storage verdicts judged rows front material page table report plots plan audit agreement derived mirrored mirror_audit witness governance registration commands trust"
).split()
# what drives studies, and what it drives them with
WRITERS = "sweeps.driver sweeps.slots sweeps.queue sweeps.start sweeps.mirror sweeps.trial ray.* engine.actors engine.pools.ray"
# a part of the house -> modules (or packages, with a star) that it must never import
NEVER: dict[str, str] = {
    "engine": "sweeps.* optuna.* dashboard.*",
    # it reads as the commands do, and asks a driver by its table alone
    "dashboard": f"{WRITERS} engine.experiment engine.rounds engine.hospital engine.pools.*",
    "engine/ledger": "engine.audit.*",
    "engine/synthesis": "engine.pools.* engine.experiment engine.ledger.book engine.ledger.store engine.ledger.run "
    "engine.ledger.observer engine.ledger.chain.*",
    # the coordinator's side has no key, the hospital's side does not decide
    "engine/synthesis/govern.py": "engine.ledger.signer engine.data.beats engine.data.samples engine.synthesis.workshop "
    "engine.synthesis.generators",
    "engine/synthesis/workshop.py": "engine.ledger.desk engine.ledger.subjects.policy engine.synthesis.govern "
    "engine.synthesis.reviews",
    "engine/tracking": "engine.experiment engine.pools.* engine.ledger.*",
    **{f"sweeps/{name}.py": WRITERS for name in READERS},
}


def within(name: str, patterns: str) -> bool:
    """Whether a module is one of those that a pattern names."""
    return any(
        name == pattern or (pattern.endswith(".*") and (name == pattern[:-2] or name.startswith(pattern[:-1])))
        for pattern in patterns.split()
    )


def files(part: str) -> list[Path]:
    place = ROOT / part
    found = [place] if place.suffix else [path for path in SOURCES if place in path.parents]
    assert found
    assert all(path.exists() for path in found)
    return found


def test_patterns_mean_what_they_say():
    assert within("a.b", "x a.*")
    assert within("a", "a.*")
    assert not within("ab", "a.*")
    assert not within("a.b", "a")


@pytest.mark.parametrize("part", MAY)
def test_a_part_imports_only_what_it_may(part: str):
    crossed = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files(part)
        for name in ours(path)
        if not within(name, MAY[part])
    }
    assert crossed == set()


@pytest.mark.parametrize("part", NEVER)
def test_a_part_never_imports_what_is_behind_its_wall(part: str):
    if part.endswith(".py") and not (ROOT / part).exists():
        pytest.fail(f"{part} has gone: the table of walls is out of date")
    crossed = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files(part)
        for name in named(path)
        if within(name, NEVER[part])
    }
    assert crossed == set()


def test_readers_reach_neither_ray_nor_the_driver_by_any_way():
    """Not only by name: what is imported with a reader, and with that, down to the ground."""
    known = {module(path) for path in SOURCES}
    graph = {module(path): {name for name in at_once(path) if name in known} for path in SOURCES}
    behind = {module(path) for path in SOURCES if "ray" in {name.split(".")[0] for name in at_once(path)}}
    writers = ("driver", "slots", "queue", "start", "mirror", "trial")
    forbidden = {*(f"sweeps.{name}" for name in writers), *behind}
    pages = [module(path) for path in files("dashboard")]
    for reader in [*(f"sweeps.{name}" for name in READERS), *pages]:
        seen, ahead = set(), [reader, "sweeps"]
        while ahead:
            here = ahead.pop()
            if here not in seen:
                seen.add(here)
                ahead += graph[here]
        assert seen & forbidden == set(), reader


def at_once(path: Path) -> Iterator[str]:
    """As `named`, of what is imported together with a file; not inside functions."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_ray_is_imported_where_processes_are_made():
    allowed = {"engine/actors.py", "engine/joining.py", "engine/pools/ray.py", "engine/background.py"}
    assert {path for path in importers("ray") if not path.startswith("sweeps/")} <= allowed


def test_the_chain_is_the_business_of_the_ledger_and_of_what_recomputes_it():
    chain = importers(
        "web3", "eth_account", "eth_tester", "eth_utils", "eth_abi", "eth_keys", "eth", "coincurve", "Crypto"
    )
    assert chain
    assert all(path.startswith("engine/ledger/") or path == "engine/audit/spec.py" for path in chain)


def test_only_the_command_line_calls_the_auditor():
    outside = {path for path in importers("engine.audit") if not path.startswith("engine/audit/")}
    assert outside
    assert all(path.startswith(("sweeps/", "dashboard/")) for path in outside)


def test_only_the_tracker_knows_mlflow():
    assert importers("mlflow") == {"engine/tracking/store.py"}


def test_timegan_lives_in_its_worker():
    assert importers("ydata_synthetic", "tensorflow") == {"engine/synthesis/timegan_worker.py"}
    assert not importers("engine.synthesis.timegan_worker")
    worker = ROOT / "engine/synthesis/timegan_worker.py"
    assert not {name for name in imports(worker) if name.startswith(("engine", "sweeps"))}


def test_no_circle_of_imports():
    """Peel off what imports nothing of ours, again and again: a circle would stay."""
    left = {module(path): ours(path) for path in SOURCES}
    while free := [name for name, wanted in left.items() if not wanted & left.keys()]:
        for name in free:
            del left[name]
    assert sorted(left) == []


def test_files_and_functions_fit_a_head():
    too_long = []
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        if (lines := len(text.splitlines())) > 600:
            too_long.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60:
                too_long.append(f"{path.relative_to(ROOT)}: {node.name} has {node.end_lineno - node.lineno + 1} lines")
    assert too_long == []


def test_a_package_s_face_imports_nothing():
    faces = [path for path in SOURCES if path.name == "__init__.py" and path.parent != ROOT / "sweeps"]
    assert len(faces) > 8
    assert [str(path.relative_to(ROOT)) for path in faces if set(imports(path))] == []


def test_no_test_imports_a_test():
    assert not {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / "tests").rglob("*.py")
        for name in imports(path)
        if name.split(".")[-1].startswith("test_")
    }


# --- Choices have builders --------------------------------------------------------------------------------------------

BUILDERS: dict[str, Callable[[str], object]] = {
    "federation.algorithm": lambda name: build_algorithm(FederationConfig(algorithm=name), PersonalisationConfig()),
    "federation.perfedavg.variant": lambda name: COST[name],
    "aggregation.rule": lambda name: build_rule(AggregationConfig(rule=name), "samples"),
    "aggregation.server.method": lambda name: build_step(ServerConfig(method=name)),
    "balance.method": lambda name: BALANCE_KEYS[name],
    "model.network": lambda name: build_network(ModelConfig(network=name), 1, 60, 0, 2),
    "selection.policy": lambda name: build_policy(SelectionConfig(policy=name)),
    "schedule.mode": lambda name: build_schedule(ScheduleConfig(mode=name), SelectionConfig(), 0, (0, 1), 1, None),
    "privacy.method": lambda name: build_privacy(
        PrivacyConfig(method=name, noise=None if name == "none" else 1.0),
        FeatureNetwork(1, 1, 0, 2, 1, 0),
        (9, 0),
        np.random.default_rng,
        lambda: bytes(32),
    ),
    "attack.method": lambda name: conduct(AttackConfig(method=name, hospitals=(0,)), "NSVF", 0, 0, 1),
}


@pytest.mark.parametrize("key", BUILDERS)
def test_every_choice_of_a_key_can_be_built(key: str):
    choices = words(dotted_keys(RunConfig)[key].annotation)
    assert choices
    for choice in choices:
        assert BUILDERS[key](choice) is not None


def test_every_algorithm_has_a_name_for_readers():
    """And whether it trains a global model, as its weighting says."""
    assert tuple(METHODS) == words(dotted_keys(RunConfig)["federation.algorithm"].annotation)
    assert len({method.title for method in METHODS.values()}) == len(METHODS)
    for name, method in METHODS.items():
        built = build_algorithm(FederationConfig(algorithm=name), PersonalisationConfig())  # type: ignore[arg-type]
        whole = name not in ("fedper", "fedrep", "fedbn")  # they keep a part of the network in each hospital
        assert method.trains_global == (whole and built.weighting != "none")


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
