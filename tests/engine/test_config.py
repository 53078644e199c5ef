"""Configuration: what is refused and in which words, YAML in and out, and what the hash of a run depends on."""

import hashlib
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from engine.aggregation.config import RULE_KEYS
from engine.attacks.config import Method
from engine.config import OWN_KEYS, RunConfig, config_hash
from engine.data.config import DataConfig
from engine.errors import ConfigError
from engine.ledger.typed import checksum_address
from engine.privacy.config import ONLY_FEATURES
from engine.reads import why_unread
from engine.settings import dotted_keys, dump_yaml, load_yaml, parse, set_key, words, yaml_value
from engine.synthesis.config import BALANCE_KEYS

LEAVES = dotted_keys(RunConfig)
NOT_HASHED = ("name", "out", "data.folder", "data.other.folder", "ledger.", "tracking.", "execution.")

OWN = f"part.py:part@{64 * '0'}"  # a part of the user's own, which no configuration executes

# Another valid value of each key for which `another` cannot make one up.
OTHER: dict[str, Any] = {
    "privacy.honest": 2,
    **{key: OWN for key in OWN_KEYS if len(words(LEAVES[key].annotation)) == 1},
    **{f"{key.partition('.')[0]}.parameters": {"mu": 0.5} for key in OWN_KEYS},
    "attack.hospitals": [0],
    "out": "elsewhere",
    "data.records": ["100"],
    "data.exclude": ["102"],
    "data.window": [90, "0.4 s"],
    "data.patients": {"100": "anna"},
    "data.filter.band": [0.5, 40.0],
    "data.folder": "elsewhere",
    "data.lead": ["II", 0],
    "data.leads": [["II", 0], ["V1"]],
    "data.rr_context": "10 s",
    "data.symbols": {"e": "S", "!": None},
    "data.other.source": "svdb",
    "data.other.records": ["0800", "801"],
    "data.other.exclude": ["1e3"],
    "data.other.folder": "elsewhere",
    "data.other.lead": [0],
    "data.other.leads": [["II"]],
    "data.other.annotator": "qrs",
    "data.other.patients": r"^(\d+)",
    "attack.share": 0.4,
    "committee.size": 3,
    "clock.fleet": "equal",
    "clock.slow": [1],
    "clock.devices": 5 * [{"frequency": 1e9}],
    "topology.levels": [{"nodes": 2}],
    "association.sinr": [3.0, 5.0],
    "association.blocks": [2, 3],
    "schedule.mode": "semi-synchronous",
    "attack.target": "V",
    "data.classes": "NSV",
    "data.drop_symbols": ["Q"],
    "data.rr_features": ["next", "previous"],
    "cohort.partition": "one-record",
    "cohort.groups": [["100", "101"], ["102"]],
    "cohort.fractions": [0.5, 0.2, 0.3],
    "model.channels": [8, 16, 32],
    "model.kernels": [3, 3, 3],
    "model.groups": 4,
    "balance.classes": "SV",
    "balance.max_weight": 5.0,
    "balance.weights": {"S": 5.0},
    "balance.policy.classes": "SV",
    "balance.policy.min_real": {"smote": 3},
    "ledger.backend": "none",
    **dict.fromkeys(
        ("ledger.contract", "ledger.admin", "ledger.auditor"), "0x5FbDB2315678afecb367f032d93F642f64180aa3"
    ),
    "ledger.url": "env:NODE_URL",
    "ledger.successors": ["deputy", "1"],
    "execution.hospitals_per_actor": 2,
    "execution.sites": dict.fromkeys(range(6), "ward"),
    "execution.certificates": "keys",
}

# what each optimiser of the server reads
SERVER_KEYS: dict[str, tuple[str, ...]] = {
    "none": (),
    "momentum": ("learning_rate", "rate", "momentum"),
    "adam": ("learning_rate", "rate", "momentum", "beta2", "tau"),
    "yogi": ("learning_rate", "rate", "momentum", "beta2", "tau"),
}


def another(key: str) -> Any:
    """A valid value of `key` other than its default; None for a key that knows only one."""
    if key in OTHER:
        return OTHER[key]
    default, kind = LEAVES[key].default, LEAVES[key].annotation
    if named := words(kind):
        return next((choice for choice in named if choice != default), None)
    if isinstance(kind, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not types.NoneType)
    if kind is bool:
        return not default
    if kind is int:
        return (default or 0) + 1
    if kind is float:
        return (default or 1.0) / 2
    assert kind is str, f"{key}: OTHER in this file needs another value of it"
    return f"{default or ''}x"


def with_key(key: str, value: Any) -> RunConfig:
    values: dict[str, Any] = {}
    set_key(values, key, value)
    if key == "data.other.source":  # the two go together
        set_key(values, "cohort.split", "other-database")
    if value == "public_weights":
        values["balance"]["weights"] = {"V": 2.0}
    if key == "privacy.method":
        values["privacy"]["noise"] = 1.0
    elif key.startswith("privacy.") and key != "privacy.parameters":
        values["privacy"] = {"noise": 1.0, "method": "dp-sgd"} | values["privacy"]
        if key.split(".")[1] in ONLY_FEATURES:
            values["privacy"] |= {
                "method": "features",
                **({"normalisation": "batch"} if key == "privacy.batch" else {}),
            }
            set_key(values, "model.network", "features")
        if key == "privacy.epsilon":
            values["privacy"]["noise"] = None
        if key == "privacy.beats":
            values["privacy"]["unit"] = "patient"
        if key == "privacy.secret":
            values["ledger"] = {"keystore": "keys"}
        if key == "privacy.honest":
            values["privacy"]["steps"], values["aggregation"] = 1, {"secure": {"method": "masks"}}
    if key == "update.share":
        values["update"]["compression"] = "top-k"
    if key == "selection.floor":
        values["selection"]["policy"] = "oort"
    if key == "schedule.mode":
        values["clock"], values["schedule"]["first"] = {"fleet": "equal"}, 3
    if key.startswith("clock.") and key != "clock.fleet":
        values["clock"]["fleet"] = "listed" if key == "clock.devices" else "stragglers"
    if key == "topology.levels":
        values["clock"] = {"fleet": "equal"}
    if key.startswith("association."):
        values["clock"] = {"fleet": "equal"}
        values["association"] = {"method": "capacity"} | values["association"]
    if key.startswith("committee.") and key != "committee.method":
        led = key in ("committee.leader", "committee.own", "committee.cap")
        values["committee"] |= {"method": "others", "leader": True} if led else {"method": "drawn"}
    for own in OWN_KEYS:
        if key == f"{own.partition('.')[0]}.parameters":
            values[own.partition(".")[0]][own.partition(".")[2]] = OWN
            if own == "data.source":
                values["data"]["normalise"] = "none"
            elif own == "balance.method":
                values["balance"]["policy"] = {"min_real": {"own": 3}}
    return parse(RunConfig, values, "x.yaml")


def refusal(work: Callable[[], object]) -> str:
    """The message with which `work` is refused: one line, a full stop at its end, nothing of the machinery."""
    with pytest.raises(ConfigError) as caught:
        work()
    message = str(caught.value)
    assert message.endswith(".")
    assert not message.endswith("..")
    assert len(message.splitlines()) == 1
    assert not any(word in message for word in ("Traceback", "pydantic", "http", "Value error"))
    assert caught.value.__cause__ is None
    return message


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("dta", "data"),
        ("seeds", "seed"),
        ("data.sorce", "source"),
        ("cohort.hospital", "hospitals"),
        ("execution.hospital_per_actor", "hospitals_per_actor"),
        ("data.simulated.patient", "patients"),
        ("federation.perfedavg.varant", "variant"),
    ],
)
def test_an_unknown_key_is_named_with_its_neighbour(key: str, near: str) -> None:
    message = refusal(lambda: with_key(key, 1))
    assert message.startswith(f"x.yaml: {key} is not a known key (did you mean {near}?); allowed here: ")


def test_an_unknown_key_lists_the_keys_of_its_own_section() -> None:
    message = refusal(lambda: with_key("data.simulated.zzz", 1))
    assert message == "x.yaml: data.simulated.zzz is not a known key; allowed here: patients, minutes, seed."
    assert "personalisation" in refusal(lambda: with_key("zzz", 1))
    assert "personalisation" not in refusal(lambda: with_key("data.zzz", 1))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("cohort.hospitals", 0, "greater than or equal to 1"),
        ("cohort.hospitals", 2.5, "valid integer"),
        ("cohort.hospitals", "many", "valid integer"),
        ("cohort.alpha", 0, "greater than 0"),
        ("cohort.alpha", float("nan"), "finite number"),
        ("cohort.alpha", float("inf"), "finite number"),
        ("cohort.exponent", -0.1, "greater than or equal to 0"),
        ("cohort.partition", "by-hand", "'records', 'one-record', 'consecutive', 'pathology'"),
        (
            "cohort.split",
            "none",
            "'chronological', 'random', 'patients', 'inter-patient', 'leave-one-hospital-out' or 'other-database'",
        ),
        ("cohort.fractions", [0.6, 0.1, 0.2], "add up to 1"),
        ("cohort.fractions", [0.0, 0.7, 0.3], "train and test above 0"),
        ("cohort.fractions", [0.7, 0.3, 0.0], "train and test above 0"),
        ("cohort.fractions", [1.2, -0.5, 0.3], "add up to 1"),
        ("data.source", "disk", "'simulated', 'mitdb', 'incart', 'svdb' or 'folder'"),
        ("data.window", [0, 180], "at least 1"),
        ("data.window", [4000, 97], "at most 4096"),
        ("data.classes", "N", "two to 100 different classes"),
        ("data.classes", "NN", "two to 100 different classes"),
        ("data.classes", "NX", "must be a list of names, or letters out of NSVFQ"),
        ("data.records", ["100", "101", "100"], "each record once"),
        ("data.rr_context", 501, "1 to 500 beats, or a time up to 600 s"),
        ("data.rr_context", "10 beats", "a whole number, or seconds as in '0.25 s' or '250 ms'"),
        ("data.window", ["0 s", 180], "at least 1"),
        ("data.lead", [], "a lead's name, its number from 0, or a list of such"),
        ("data.lead", True, "a lead's name, its number from 0, or a list of such"),
        ("data.rate", 0, "greater than 0"),
        ("data.filter.band", [40, 0.5], "two rising frequencies"),
        ("data.annotator", "a/b", "match pattern"),
        ("data.patients", "(", "neither a .csv file nor a regular expression"),
        ("data.records", [1e3], "put it into quotes"),
        ("data.simulated.patients", 10_000, "less than or equal to 9999"),
        ("data.simulated.minutes", 0.5, "greater than 0.5"),
        ("federation.rounds", 0, "greater than or equal to 1"),
        ("federation.participation", 1.01, "less than or equal to 1"),
        ("federation.participation", 0, "greater than 0"),
        ("federation.perfedavg.beta", -1, "greater than 0"),
        ("seed", 2**63, "less than"),
        ("seed", -1, "greater than or equal to 0"),
        ("name", "", "at least 1 character"),
        ("execution.hospitals_per_actor", 0, "'auto' or a number of at least 1"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(key: str, value: Any, says: str) -> None:
    message = refusal(lambda: with_key(key, value))
    assert message.startswith(f"x.yaml: {key} is {value!r}: ")
    assert says in message


def test_a_wrong_item_of_a_list_is_named_by_its_position() -> None:
    assert refusal(lambda: with_key("data.window", [180, "x"])).startswith("x.yaml: data.window.1 is 'x': ")
    assert refusal(lambda: with_key("data.window", [180])).startswith("x.yaml: data.window.1 ")
    assert refusal(lambda: with_key("cohort.groups", ["100"])).startswith("x.yaml: cohort.groups.0 is '100': ")
    assert refusal(lambda: with_key("cohort.groups", [100])).startswith("x.yaml: cohort.groups.0 is 100: ")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"data": {"source": "folder"}}, "data: source 'folder' needs data.folder."),
        ({"ledger": {"backend": "rpc"}}, "ledger: backend 'rpc' needs ledger.url."),
        (
            {"cohort": {"partition": "records"}},
            "cohort: partition 'records' needs cohort.groups, a list of record lists.",
        ),
        (
            {"cohort": {"partition": "records", "hospitals": 3, "groups": [["100"], ["101"]]}},
            "cohort: cohort.groups has 2 lists but cohort.hospitals is 3.",
        ),
        (
            {"cohort": {"partition": "records", "hospitals": 2, "groups": [["100"], []]}},
            "cohort: each list of cohort.groups needs at least one record.",
        ),
        (
            {"cohort": {"split": "leave-one-hospital-out", "hospitals": 3, "held_out": 3}},
            "cohort: held_out must be below hospitals, and there must be at least two hospitals.",
        ),
        (
            {"cohort": {"split": "leave-one-hospital-out", "hospitals": 1}},
            "cohort: held_out must be below hospitals, and there must be at least two hospitals.",
        ),
        ({"model": {"groups": 6}}, "model: each of model.channels must be a multiple of model.groups (6)."),
        ({"model": {"kernels": [7, 4, 5]}}, "model: model.kernels must be odd numbers, at least 1."),
        (
            {"federation": {"min_hospitals": 6}},
            "federation.min_hospitals is 6 but there are only 5 hospitals.",
        ),
    ],
)
def test_values_that_do_not_go_together(values: dict[str, Any], says: str) -> None:
    assert refusal(lambda: parse(RunConfig, values, "x.yaml")) == f"x.yaml: {says}"


def all_of(values: dict[str, Any]) -> list[str]:
    """What is said of a file, a line for each mistake, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        parse(RunConfig, values, "x.yaml")
    return [line.removeprefix("x.yaml: ") for line in str(caught.value).split("\n")]


def test_all_mistakes_of_a_file_are_told_at_once() -> None:
    """Of single keys, within sections and across them, several of one section among them."""
    said = all_of(
        {
            "seed": -1,
            "nme": "x",
            "data": {"records": ["100", "100"], "source": "folder"},
            "cohort": {"hospitals": 3, "split": "other-database", "partition": "records"},
            "federation": {"rounds": 0, "min_hospitals": 9},
            "balance": {"classes": ["X"]},
            "model": {"kernels": [7, 4, 5], "groups": 6},
            "ledger": {"backend": "rpc"},
            "execution": {"sites": {0: "a"}, "pool": "threads"},
        }
    )
    assert [line.split(" is ")[0].split(":")[0] for line in said[:4]] == [
        "seed",
        "data.records",
        "federation.rounds",
        "nme",
    ]
    assert said[4:] == [
        "cohort.split: other-database and data.other.source go together: the database that is only tested on.",
        "balance.classes: 'X' is no class; allowed: N, S, V, F, Q.",
        "execution.sites names no site for hospital 1; it needs one for each, or none.",
        "execution.sites needs execution.pool ray, which is threads.",
        "federation.min_hospitals is 9 but there are only 3 hospitals.",
        "data: source 'folder' needs data.folder.",
        "cohort: partition 'records' needs cohort.groups, a list of record lists.",
        "model: each of model.channels must be a multiple of model.groups (6).",
        "model: model.kernels must be odd numbers, at least 1.",
        "ledger: backend 'rpc' needs ledger.url.",
    ]


@pytest.mark.parametrize(
    "values",
    [
        {"federation": {"min_hospitals": 9}, "cohort": {"hospitals": "many"}},  # 9 may be few enough
        {"federation": {"min_hospitals": 0}, "cohort": {"hospitals": 3}},
        {"data": {"classes": "NX"}, "balance": {"classes": ["X"]}},
        {"data": {"source": "folder", "folder": 1.5}},
        {"ledger": 5},
        {"data": {"other": 3}, "cohort": {"split": "other-database"}},
    ],
)
def test_nothing_is_said_of_keys_together_where_one_is_wrong_by_itself(values: dict[str, Any]) -> None:
    assert len(all_of(values)) == 1


def test_values_that_just_go_together() -> None:
    assert with_key("federation.min_hospitals", 5).federation.min_hospitals == 5
    assert with_key("data.window", [4000, 96]).data.window == (4000, 96)
    assert with_key("cohort.fractions", [0.7, 0, 0.3]).cohort.fractions == (0.7, 0.0, 0.3)
    last = {"cohort": {"split": "leave-one-hospital-out", "hospitals": 3, "held_out": 2}}
    assert parse(RunConfig, last, "x.yaml").cohort.held_out == 2


def test_a_configuration_cannot_be_changed() -> None:
    config = RunConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.cohort.alpha = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("values", [[], ["seed"], "seed: 1", None, 3])
def test_only_a_mapping_is_a_configuration(values: Any) -> None:
    assert refusal(lambda: parse(RunConfig, values, "x.yaml")) == (
        "x.yaml: must be a mapping of keys such as name, seed, out, data."
    )


@pytest.mark.parametrize("key", [1, True, None, 2.5])
def test_a_key_that_is_no_text_is_refused(key: Any) -> None:
    assert "keys should be strings" in refusal(lambda: parse(RunConfig, {key: 1}, "x.yaml"))
    assert "keys should be strings" in refusal(lambda: parse(RunConfig, {"data": {key: 1}}, "x.yaml"))


def test_a_section_that_is_no_mapping_is_refused() -> None:
    assert refusal(lambda: parse(RunConfig, {"data": 5}, "x.yaml")).startswith("x.yaml: data is 5: ")


def test_record_names_may_be_written_as_numbers() -> None:
    values = {
        "data": {"records": [100, "101", 102], "exclude": [102], "drop_symbols": ["Q"]},
        "cohort": {"partition": "records", "hospitals": 2, "groups": [[100], [101, "102"]]},
    }
    config = parse(RunConfig, values, "x.yaml")
    assert config.data.records == ("100", "101", "102")
    assert config.data.exclude == ("102",)
    assert config.cohort.groups == (("100",), ("101", "102"))


@pytest.mark.parametrize(
    "name",
    ["04015", "0001", "010", "00", "3141595_0001", "100", "0x1F", "0o17", "+5", "1_000", "12:30", "no", "y", "on"],
)
def test_names_keep_their_text(tmp_path: Path, name: str) -> None:
    """As in the databases that are numbered so; YAML 1.1 would read 2061, 1, 8, 0, 31415950001 and so on."""
    path = tmp_path / "c.yaml"
    path.write_text(
        f"name: {name}\ndata: {{records: [{name}, 12], exclude: [{name}], folder: {name}, patients: {{{name}: {name}}}}}\n"
        f"cohort: {{groups: [[{name}]]}}\n"
    )
    values = load_yaml(path)
    config = parse(RunConfig, values, "c.yaml")
    assert config.data.records == (name, "12")
    assert config.data.exclude == config.cohort.groups[0] == (name,)  # type: ignore[index]
    assert config.name == config.data.folder == name
    assert config.data.patients == {name: name}
    path.write_text(dump_yaml(config))
    assert parse(RunConfig, load_yaml(path), "c.yaml") == config
    assert yaml_value(f"[{name}, 12]") == [int(name) if name == "100" else name, 12]


@pytest.mark.parametrize("value", ["1e3", "1.50", "true", "null", "~"])
def test_a_name_that_yaml_takes_for_something_else_wants_quotes(value: str) -> None:
    message = refusal(lambda: parse(RunConfig, {"data": {"exclude": [yaml_value(value)]}}, "c.yaml"))
    assert message.endswith("is no name but a number, true, false or null; put it into quotes to make it one.")
    assert parse(RunConfig, {"data": {"exclude": yaml_value(f"['{value}']")}}, "c.yaml").data.exclude == (value,)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1E5", 100000.0), ("-.5", -0.5), ("1.", 1.0), (".inf", float("inf")), ("12", 12), ("-7", -7),
        ("true", True), ("FALSE", False), ("yes", "yes"), ("off", "off"), ("null", None), ("2024-01-31", "2024-01-31"),
        ("1:30", "1:30"), ("0", 0), ("{a: 1e2}", {"a": 100.0}),
    ],
)  # fmt: skip
def test_plain_values_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    assert yaml_value(text) == value
    assert type(yaml_value(text)) is type(value)


def test_numbers_in_any_of_these_forms_are_numbers_where_one_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("seed: 007\ncohort: {hospitals: +4, alpha: 1e-3}\ndata: {rr_features: no}\n")
    config = parse(RunConfig, load_yaml(path), "c.yaml")
    assert (config.seed, config.cohort.hospitals, config.cohort.alpha, config.data.rr_features) == (7, 4, 0.001, False)


@pytest.mark.parametrize("text", ["[", "a: b: c", "!!python/name:os.system", "<<"])
def test_a_flag_that_is_no_yaml_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a YAML value"):
        yaml_value(text)


def test_a_window_in_seconds_has_samples_at_a_rate() -> None:
    data = DataConfig(window=("0.25 s", "450ms"))
    assert data.window_at(360) == (90, 162)
    assert data.window_at(128) == (32, 58)
    assert DataConfig(window=(90, "0.45 s")).window_at(100) == (90, 45)
    with pytest.raises(
        ValueError, match="which at 10000 Hz is 2500 and 4500 samples; both must be at least 1 and their sum"
    ):
        data.window_at(10_000)


def test_the_letters_of_classes_are_put_in_order() -> None:
    assert DataConfig(classes="VFN").classes == ("N", "V", "F")


def test_rr_names_follow_the_setting() -> None:
    assert DataConfig().rr_names == ("previous", "next", "previous_ratio", "next_ratio")
    assert DataConfig(rr_features=False).rr_names == ()
    assert DataConfig(rr_features=("next_ratio", "previous")).rr_names == ("next_ratio", "previous")


def test_every_key_survives_yaml(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    everything: dict[str, Any] = {}
    for key in LEAVES:
        if (value := another(key)) is not None:
            set_key(everything, key, value)
    everything["federation"]["algorithm"] = OWN
    for section in ("data", "balance", "aggregation", "attack", "model"):  # other parts stand there
        del everything[section]["parameters"]
    everything["privacy"] = {"method": OWN, "parameters": {"mu": 0.5}}  # the built-in one goes with few others
    everything["selection"] = {"policy": "oort", "floor": 0.25}
    everything["cohort"]["stratify"] = False  # the split says already who is tested
    everything["clock"] = {
        "fleet": "none",
        "dropout": 0.5,
        "on": 7.0,
    }  # a policy keeps no time, and an own schedule neither
    everything["schedule"] = {"mode": "synchronous", "buffer": 7, "cap": 2.0}
    del everything["topology"]  # nor levels
    everything["association"] = {"miners": 3, "blocks": [2, 3]}  # without a clock no miners
    everything["committee"] = {"percent": 40}  # one that judges goes with few others, too
    everything["execution"]["pool"] = "ray"  # sites want it
    everything["cohort"]["split"] = "other-database"  # so does the other source
    everything["aggregation"]["byzantine"] = 0  # two buckets bear none
    everything["aggregation"]["secure"] = {"min_summands": 4}  # masks go with few others
    everything["ledger"]["reputation"] = "none"  # the other value wants a ledger
    del everything["ledger"]["successors"]  # and so do successors
    del everything["data"]["lead"], everything["data"]["other"]["lead"]  # in place of which others stand
    everything["data"]["other"]["leads"] = [["II"], [1]]  # as many
    changed = parse(RunConfig, everything, "x.yaml")
    assert changed.cohort.groups == (("100", "101"), ("102",))
    for config in (RunConfig(), changed):
        path.write_text(dump_yaml(config), encoding="utf-8")
        again = parse(RunConfig, load_yaml(path), str(path))
        assert again == config
        assert config_hash(again) == config_hash(config)
        assert dump_yaml(again) == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["päť", "on", "null", "1e3", "100", "2024-01-01", ": - {", "a\nb", " x "])
def test_text_that_looks_like_something_else_survives_yaml(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    config = parse(RunConfig, {"name": text, "data": {"records": [text]}}, "x.yaml")
    path.write_text(dump_yaml(config), encoding="utf-8")
    assert parse(RunConfig, load_yaml(path), str(path)) == config


@pytest.mark.parametrize("key", LEAVES)
def test_the_hash_changes_with_what_can_change_a_number(key: str) -> None:
    value = another(key)
    if value is None:
        assert len(words(LEAVES[key].annotation)) == 1, f"{key} has other values"
        return
    changed = with_key(key, value)
    assert changed != RunConfig()
    if key.startswith("clock."):  # beside the fleet that reads the key
        assert config_hash(changed) != config_hash(with_key("clock.fleet", "stragglers"))
        return
    if key.startswith("association."):
        assert config_hash(changed) != config_hash(with_key("association.method", "capacity"))
        return
    parts = ("balance.", "attack.", "aggregation.", "schedule.")
    kept = (
        ".method",
        "schedule.mode",
        ".rule",
        ".worker_momentum",
        ".parameters",
    )  # the rest is not read by "none" and the mean
    unread = key.startswith(parts) and not key.endswith(kept)
    assert (config_hash(changed) == config_hash(RunConfig())) == (unread or key.startswith(NOT_HASHED))


@pytest.mark.parametrize("method", BALANCE_KEYS)
def test_the_hash_holds_the_balancing_that_is_used_and_no_other(method: str) -> None:
    for key in (
        key for key in LEAVES if key.startswith("balance.") and key not in ("balance.method", "balance.parameters")
    ):
        base = with_key("balance.method", method)
        values = base.model_dump()
        if key == "balance.policy.mode":  # nobody may be shown real beats, which oversample repeats
            set_key(values, "balance.policy.preview", 0)
            base = parse(RunConfig, values, "base")
        set_key(values, key, another(key))
        read = key.split(".")[1] in BALANCE_KEYS[method]
        assert (config_hash(parse(RunConfig, values, "changed")) != config_hash(base)) == read, key


def test_the_hash_holds_what_a_privacy_mechanism_reads_and_nothing_else() -> None:
    measured = parse(RunConfig, {"privacy": {"membership": True}}, "measured")
    assert config_hash(measured) != config_hash(RunConfig())
    always = ("privacy.method", "privacy.parameters", "privacy.membership")
    for key in (k for k in LEAVES if k.startswith("privacy.") and k not in always):
        if (value := another(key)) is None:
            continue
        if key.split(".")[1] in ONLY_FEATURES:
            continue
        private = {"method": "dp-sgd", "noise": 3.0, key.split(".")[1]: value}
        if key == "privacy.epsilon":
            del private["noise"]
        if key == "privacy.beats":
            private["unit"] = "patient"
        base = {"ledger": {"keystore": "keys"}, "privacy": {"method": "dp-sgd", "noise": 3.0}}
        if key == "privacy.honest":
            base["aggregation"] = {"secure": {"method": "masks"}}
            base["privacy"]["steps"] = private["steps"] = 1
        changed = parse(RunConfig, {**base, "privacy": private}, "changed")
        assert config_hash(changed) != config_hash(parse(RunConfig, base, "base")), key
        assert config_hash(RunConfig()) == config_hash(RunConfig(ledger=changed.ledger)), key
        unread = "privacy.method is none" + (" and privacy.unit is beat" if key == "privacy.beats" else "")
        assert (why_unread(RunConfig(), key), why_unread(changed, key)) == (unread, "")


@pytest.mark.parametrize("release", ["gaussian", "laplace"])
@pytest.mark.parametrize("normalisation", ["beat", "batch", "none"])
def test_the_hash_holds_what_a_release_of_features_reads_and_nothing_else(release: str, normalisation: str) -> None:
    private = {"method": "features", "noise": 3.0, "release": release, "normalisation": normalisation}
    base = parse(RunConfig, {"model": {"network": "features"}, "privacy": private}, "base")
    read = {"release", "normalisation", "noise", "secret", "epsilon"}
    read |= {"delta"} if release == "gaussian" else set()
    read |= {"batch": {"batch"}, "none": {"clip"}}.get(normalisation, set())
    for key in ("delta", "clip", "batch", "steps", "sampling_rate", "beats", "noise"):
        changed = parse(
            RunConfig, {**base.model_dump(), "privacy": {**private, key: another(f"privacy.{key}")}}, "changed"
        )
        assert (config_hash(changed) != config_hash(base)) == (key in read), key
        assert (why_unread(base, f"privacy.{key}") == "") == (key in read), key
    assert set(base.privacy.used()) == {"method", "parameters", *read}


@pytest.mark.parametrize("method", get_args(Method))
def test_the_hash_holds_what_an_attack_reads_and_nothing_else(method: str) -> None:
    for key in (k for k in LEAVES if k.startswith("attack.") and k not in ("attack.method", "attack.parameters")):
        base = with_key("attack.method", method)
        values = base.model_dump()
        set_key(values, key, another(key))
        read = not why_unread(base, key) and key.split(".")[1] in {**base.attack.used(), "hospitals": None}
        assert (config_hash(parse(RunConfig, values, "changed")) != config_hash(base)) == read, key


@pytest.mark.parametrize("rule", ["mean", *RULE_KEYS])
@pytest.mark.parametrize("mix", ["none", "bucketing"])
def test_the_hash_holds_what_a_rule_of_aggregation_reads_and_nothing_else(rule: str, mix: str) -> None:
    base = parse(RunConfig, {"aggregation": {"rule": rule, "mix": mix}, "cohort": {"hospitals": 20}}, "base")
    for key in ("byzantine", "keep", "radius", "iterations", "mix", "bucket"):
        values = base.model_dump()
        set_key(
            values,
            f"aggregation.{key}",
            "nearest" if key == "mix" else 1.0 if key == "radius" else 2 + (key == "bucket"),
        )
        read = not why_unread(base, f"aggregation.{key}")
        assert read == (key in base.aggregation.used())
        assert (config_hash(parse(RunConfig, values, "changed")) != config_hash(base)) == read, key


@pytest.mark.parametrize("method", SERVER_KEYS)
def test_the_hash_holds_the_server_s_optimiser_that_is_used_and_no_other(method: str) -> None:
    for key in (key for key in LEAVES if key.startswith("aggregation.server.") and not key.endswith(".method")):
        base = with_key("aggregation.server.method", method)
        values = base.model_dump()
        set_key(values, key, another(key))
        read = key.split(".")[2] in SERVER_KEYS[method]
        assert (config_hash(parse(RunConfig, values, "changed")) != config_hash(base)) == read, key


def test_the_hash_can_be_recomputed_from_the_configuration() -> None:
    config = with_key("cohort.groups", [["100"], ["101"]])
    values = json.loads(config.model_dump_json())
    for key in ("name", "out", "ledger", "tracking", "execution"):
        del values[key]
    del values["data"]["folder"], values["data"]["other"]["folder"]
    values["privacy"] = {"method": "none", "parameters": {}}
    for section in ("balance", "attack", "committee", "association"):
        values[section] = {"method": "none"}  # reads nothing else
    values["schedule"], values["clock"] = {"mode": "synchronous"}, {"fleet": "none"}
    values["aggregation"]["server"] = {"method": "none"}
    del values["selection"]["floor"], values["update"]["share"]
    values["aggregation"] = {
        name: values["aggregation"][name] for name in ("rule", "parameters", "worker_momentum", "server")
    }
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    assert config_hash(config) == hashlib.sha256(text.encode("ascii")).hexdigest()


def test_equal_values_written_differently_have_one_hash() -> None:
    plain = {
        "cohort": {"alpha": 1},
        "federation": {"learning_rate": "1e-3"},
        "data": {"records": [100], "classes": "VN"},
    }
    exact = {
        "data": {"classes": "NV", "records": ("100",)},
        "federation": {"learning_rate": 0.001},
        "cohort": {"alpha": 1.0},
    }
    assert config_hash(parse(RunConfig, plain, "a")) == config_hash(parse(RunConfig, exact, "b"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"seed: 1\ncohort: [1\n", "c.yaml, line 3: is not valid YAML (expected ',' or ']'"),
        (b"seed: 1\nname: a: b\n", "c.yaml, line 2: is not valid YAML (mapping values are not allowed here)."),
        (b"\tseed: 1\n", "c.yaml, line 1: is not valid YAML (found character '\\t'"),
        (b"name: *nobody\n", "c.yaml, line 1: is not valid YAML (found undefined alias"),
        (b"name: !!python/name:os.system\n", "c.yaml, line 1: is not valid YAML (could not determine a constructor"),
        (b"seed: " + b"9" * 5000, "c.yaml: is not valid YAML (Exceeds the limit"),
        (b"name: \x01\n", "c.yaml: is not valid YAML (unacceptable character"),
        (b"{" * 5000, "c.yaml: is not valid YAML (maximum recursion depth"),
        (b"- seed\n- 1\n", "c.yaml: must be a mapping of keys, not a list."),
        (b"seed\n", "c.yaml: must be a mapping of keys, not a str."),
        (b"\xff\xfe\x00\x01", "c.yaml: cannot be read (not a text file); give a YAML file."),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)  # py-evm, where an earlier test imported it, has raised it a hundredfold
    try:
        message = refusal(lambda: load_yaml(path))
    finally:
        sys.setrecursionlimit(limit)
    assert message.startswith(str(tmp_path))
    assert says in message


def test_a_file_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    missing = refusal(lambda: load_yaml(tmp_path / "none.yaml"))
    assert missing == f"{tmp_path / 'none.yaml'}: cannot be read (No such file or directory); give a YAML file."
    folder = refusal(lambda: load_yaml(tmp_path))
    assert folder == f"{tmp_path}: cannot be read (Is a directory); give a YAML file."


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n", "~\n"])
def test_a_file_that_holds_nothing_is_no_configuration(text: str, tmp_path: Path) -> None:
    """A disk that was full leaves such files; they would run all defaults."""
    (tmp_path / "c.yaml").write_text(text)
    assert refusal(lambda: load_yaml(tmp_path / "c.yaml")) == (
        f"{tmp_path / 'c.yaml'}: holds nothing; give a YAML file of keys and values."
    )


@pytest.mark.parametrize("key", ["cohort.hospitals", "federation.learning_rate", "federation.min_hospitals", "seed"])
def test_true_is_no_number(key: str) -> None:
    values: dict[str, Any] = {}
    set_key(values, key, True)
    assert refusal(lambda: parse(RunConfig, values, "c.yaml")) == (
        f"c.yaml: {key} is True: is true or false, where a number is wanted."
    )


def test_set_key_makes_the_sections_it_needs() -> None:
    values: dict[str, Any] = {"data": {"lead": "V1"}}
    set_key(values, "data.simulated.patients", 3)
    set_key(values, "seed", 4)
    set_key(values, "data.lead", "V2")
    assert values == {"data": {"lead": "V2", "simulated": {"patients": 3}}, "seed": 4}


def test_set_key_does_not_go_through_a_value() -> None:
    assert refusal(lambda: set_key({"seed": 1}, "seed.more", 2)) == "seed.more: seed is not a section."


def test_dotted_keys_are_the_leaves() -> None:
    def leaves(values: dict[str, Any], prefix: str = "") -> set[str]:
        inner = {k: v for k, v in values.items() if isinstance(v, dict) and prefix + k not in LEAVES}
        return {prefix + k for k in values if k not in inner}.union(
            *(leaves(v, f"{prefix}{k}.") for k, v in inner.items())
        )

    assert set(LEAVES) == leaves(RunConfig().model_dump())
    assert {"seed", "data.simulated.patients", "federation.perfedavg.alpha"} < set(LEAVES)
    assert all(field.description for field in LEAVES.values())


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("seed: 1\ncohort:\n  alpha: 1\n  hospitals: 3\n  alpha: 2\n")
    with pytest.raises(ConfigError, match=r"twice.yaml, line 5: is not valid YAML \(the key alpha stands twice\)\.$"):
        load_yaml(path)


def test_unknown_symbols_and_every_alternative_are_named() -> None:
    with pytest.raises(ConfigError, match=r"data.drop_symbols is .*'x' is no beat symbol; allowed: N L R e j"):
        parse(RunConfig, {"data": {"drop_symbols": ["x"]}}, "c.yaml")
    with pytest.raises(
        ConfigError, match=r"data.records is 3: input should be 'all', or input should be a valid tuple"
    ):
        parse(RunConfig, {"data": {"records": 3}}, "c.yaml")


@pytest.mark.parametrize("text", ["{0}", "'{0}'", "{1}", "{2}"])
def test_a_contract_needs_no_quotes(tmp_path: Path, text: str):
    """YAML takes 0x and forty digits for a number."""
    address = checksum_address(bytes.fromhex("00bdb2315678afecb367f032d93f642f64180aa3"))
    path = tmp_path / "run.yaml"
    digits = text.format(address, address.lower(), "0x" + address[2:].upper())
    path.write_text(f"ledger: {{backend: rpc, url: 'http://node', contract: {digits}}}\n")
    assert parse(RunConfig, load_yaml(path), "run.yaml").ledger.contract == address
