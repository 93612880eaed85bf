"""Mistakes in the configuration are found before anything runs, all at once, by dotted key."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import REPOSITORY
from pydantic import ValidationError

from mtlpar.config import json_schema, load_config
from mtlpar.config.load import check_config
from mtlpar.config.schema import STAGES, Config
from mtlpar.model.settings import EgnnSettings, PainnSettings
from mtlpar.sources import registry
from mtlpar.train.settings import TrainSettings

DEFAULT = REPOSITORY / "config.yaml"


def test_default_config_names_the_papers_models_one_of_energies_and_one_for_dynamics() -> None:
    config = load_config([DEFAULT])
    assert set(config.models) == {
        "ani1x",
        "qm7x",
        "mptrj",
        "alexandria",
        "transition1x",
        "ani1ccx",
        "baseline",
        "mtl",
        "mtl_conservative",
    }
    assert config.start_file("mtl_conservative") == config.workspace.model("mtl")
    assert config.model_of("mtl_conservative").head.forces == "conservative"
    assert len(config.models["baseline"].branches) == 1
    assert len(config.models["mtl"].branches) == 6


@pytest.mark.parametrize("stage", STAGES)
def test_a_misspelt_key_in_any_stage_is_refused_by_name(stage: str) -> None:
    with pytest.raises(ValueError, match=rf"{stage}\.no_such_key: unknown key"):
        load_config([DEFAULT], [f"{stage}.no_such_key=1"])


def test_all_problems_are_reported_at_once_with_hints() -> None:
    with pytest.raises(ValueError) as error:
        load_config(
            [DEFAULT], ["train.epochz=5", "model.encoder.width=wide", "seed=-1", "trian.epochs=5"]
        )
    text = str(error.value)
    assert "4 problems" in text
    assert "train.epochz: unknown key; did you mean 'epochs'? (--set train.epochz=5)" in text
    assert "trian: unknown key; did you mean 'train'? (--set trian.epochs=5)" in text
    assert "model.encoder.width:" in text
    assert "seed:" in text


def test_a_renamed_setting_is_told_by_its_present_name() -> None:
    with pytest.raises(ValueError, match=r"dataset_weights: .* did you mean 'source_weights'"):
        load_config([DEFAULT], ["train.dataset_weights.qm7x=0.5"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extract:\n  max_force_ev_per_angstrom: 'False'\n", "got 'False' ({}, line 2)"),
        ("normalize:\n  val: 0.1\n", "normalize.val: unknown key ({}, line 2)"),
        ("\nmodels:\n  a:\n    branches: {b: [oc20]}\n", "is not listed in sources ({}, line 3)"),
    ],
)  # fmt: skip
def test_every_problem_is_said_with_its_file_and_line(tmp_path: Path, text: str, said: str) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(text)
    with pytest.raises(ValueError) as error:
        load_config([DEFAULT, mine])
    assert str(error.value).endswith(said.format(mine))


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("train.epochs=[1", r"override 'train.epochs=\[1': the value is not valid YAML"),
        # They would end in a file that knows no infinity, far from their key.
        ("train.learning_rate=.inf", r"train.learning_rate: input should be a finite number"),
        ("train.passes_per_epoch.qm7x=-1", r"train.passes_per_epoch.qm7x: .*greater than 0"),
        ("train.source_weights.qm7x=-1", r"train.source_weights.qm7x.*greater than or equal"),
        # YAML's truth values; pydantic would take them for 1 and 0.
        ("train.epochs=yes", r"train\.epochs: got True, expected no truth value"),
        ("normalize.test_fraction=off", r"normalize\.test_fraction: got False"),
        ("seed=on", r"seed: got True"),
        ("normalize.reference_energies.qm7x={H: yes}", r"reference_energies: got .*True"),
        ("train.trackers=[no]", r"train\.trackers: got \[False\]"),
        # A weight may also be a block, which looks for truth values by itself.
        ("train.source_weights.qm7x=yes", r"train\.source_weights\.qm7x: got True, expected no"),
        # Where several kinds are allowed pydantic finds fault with each, and names its types.
        ("normalize.reference_energies.qm7x=3", r"qm7x: expected a mapping or a path, got 3"),
        ("normalize.reference_energies.qm7x={H: x}", r"1 problem.*\s.*\.qm7x\.H: .* got 'x'"),
        (
            "train.source_weights.qm7x=[1]",
            r"expected a number or a mapping with .* energy, force, stress, got \[1\]",
        ),
        ("train.source_weights.qm7x=x", r"1 problem.*\s.*\.qm7x: input should be a valid number"),
        ("train.source_weights.qm7x={force: -1}", r"1 problem.*\s.*\.qm7x\.force: .* got -1"),
        # Settings that the encoder of that kind does not have would change nothing, in silence.
        ("model.encoder={kind: painn, vector_channels: 8}", r"_channels: only egnn has this"),
        ("models.mtl.model.encoder={kind: painn, vector_channels: 8}", r"mtl.*: only egnn has"),
        (
            "model.encoder={kind: painn, widht: 8}",
            r"encoder\.widht: .* did you mean 'width'",
        ),
        (
            "model.encoder.kind=mace",
            r"kind: expected 'egnn' or 'painn', got 'mace' \(--set",
        ),
        ("model.encoder=painn", r"model\.encoder: expected a mapping with the keys kind, width"),
        # Packs of nothing are refused, so splits of nothing are.
        ("normalize.val_fraction=0", r"normalize\.val_fraction: input should be greater than 0"),
    ],
)
def test_a_value_that_is_none_is_told_with_its_key(assignment: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_config([REPOSITORY / "config.yaml"], [assignment])


def test_a_model_of_another_kind_of_encoder_keeps_what_both_kinds_have() -> None:
    given = ["model.encoder.width=48", "model.encoder.vector_channels=8"]
    config = load_config([DEFAULT], [*given, "models.mtl.model.encoder={kind: painn, layers: 2}"])
    assert config.model_of("mtl").encoder == PainnSettings(kind="painn", width=48, layers=2)
    # Without a kind of its own it has that of all, whose settings it knows.
    config = load_config([DEFAULT], [*given, "models.mtl.model.encoder.layers=2"])
    assert config.model_of("mtl").encoder == EgnnSettings(width=48, layers=2, vector_channels=8)
    config = load_config(
        [DEFAULT],
        ["model.encoder.kind=painn", "models.mtl.model.encoder.layers=2"],
    )
    assert config.model_of("mtl").encoder == PainnSettings(kind="painn", layers=2)


def test_null_takes_away_a_setting_of_the_kind_of_encoder_that_an_earlier_file_has() -> None:
    preset = REPOSITORY / "workflow" / "presets" / "paper.yaml"
    with pytest.raises(ValueError, match=r"vector_channels: only egnn.*null.*paper\.yaml, line"):
        load_config([DEFAULT, preset], ["model.encoder.kind=painn"])
    config = load_config(
        [DEFAULT, preset], ["model.encoder.kind=painn", "model.encoder.vector_channels=null"]
    )
    assert config.model.encoder == PainnSettings(kind="painn", width=866)


def test_a_config_that_is_not_here_is_told_with_the_folder_and_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = (
        rf"config\.yaml does not exist in {tmp_path}; name one with --config, or run in a checkout"
    )
    with pytest.raises(ValueError, match=told):
        load_config([Path("config.yaml")])


def test_files_that_are_no_config_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"config file {tmp_path} cannot be read"):
        load_config([tmp_path])
    (tmp_path / "latin.yaml").write_bytes("seed: 1 # Ångström".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.yaml is not in UTF-8"):
        load_config([tmp_path / "latin.yaml"])
    (tmp_path / "number.yaml").write_text("1: 2\n")
    with pytest.raises(ValueError, match="1: unknown key"):
        load_config([REPOSITORY / "config.yaml", tmp_path / "number.yaml"])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["train.branch_rates.nope=1"], "train.branch_rates.nope: no model has such a branch"),
        (
            ["train.compile=true", "model.head.forces=conservative"],
            "train.compile: not for conservative forces",
        ),
    ],
)
def test_a_mistake_in_the_settings_of_all_models_is_told_once_and_by_who_made_it(
    changes: list[str], problem: str
) -> None:
    # It is found with each of nine models.
    with pytest.raises(ValueError, match=re.escape(problem)) as error:
        load_config([REPOSITORY / "config.yaml"], changes)
    assert "config.yaml: 1 problem\n" in str(error.value)
    assert str(error.value).endswith(f"(--set {changes[0]})")


def test_a_key_that_stands_twice_is_refused_because_yaml_keeps_one_in_silence(
    tmp_path: Path,
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("train:\n  epochs: 3\n  seed: 1\n  epochs: 4\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: train\.epochs is given twice, on lines 2"):
        load_config([mine])
    # On one line, and in an override, which would lose a branch.
    with pytest.raises(ValueError, match=r"branches\.a is given twice"):
        load_config([DEFAULT], ["models.mtl.branches={a: [ani1x], a: [qm7x]}"])


def test_models_may_only_use_listed_sources_once() -> None:
    with pytest.raises(ValueError, match=r"models\.x: source 'oc20' is not listed"):
        load_config([DEFAULT], ["models.x={branches: {a: [oc20]}}"])
    with pytest.raises(ValueError, match="feed more than one branch"):
        load_config([DEFAULT], ["models.x={branches: {a: [ani1x], b: [ani1x]}}"])


def test_an_override_of_one_alias_leaves_the_other(tmp_path: Path) -> None:
    # YAML makes one mapping of both; laid over in place, the files of b were read as a's.
    mine, more = tmp_path / "mine.yaml", tmp_path / "more.yaml"
    mine.write_text(
        "sources: [a, b]\n"
        "models: {m: {branches: {x: [a, b]}}}\n"
        "custom_sources:\n"
        "  a: &a {format: extxyz, files: ['a.xyz'], level_of_theory: t, group_key: g}\n"
        "  b: *a\n"
    )
    more.write_text("custom_sources: {b: {files: ['b.xyz']}}\n")
    for config in (
        load_config([mine, more]),
        load_config([mine], ["custom_sources.b.files=['b.xyz']"]),
    ):
        assert config.custom_sources["a"].files == ("a.xyz",)
        assert config.custom_sources["b"].files == ("b.xyz",)


@pytest.mark.parametrize(
    ("value", "key"),
    [("&a {x: *a}", r"train\.x"), ("&a [*a]", "train"), ("{x: &a [*a]}", "train.x")],
)
def test_a_block_that_holds_itself_is_refused(tmp_path: Path, value: str, key: str) -> None:
    # Copied as it is, it has no end.
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"train: {value}\n")
    with pytest.raises(ValueError, match=rf"mine\.yaml: {key} refers to a block"):
        load_config([mine])
    with pytest.raises(ValueError, match=rf"^{key} refers to a block"):
        load_config([DEFAULT], [f"train={value}"])


@pytest.mark.parametrize(
    ("key", "value", "number"),
    [
        ("train.epochs", "1:30", "90"),
        ("seed", "010", "8"),
        ("train.energy_weight", "-1:30.5", "-90.5"),
        ("sources", "[012]", "10"),
    ],
)
def test_a_number_that_yaml_reads_as_another_is_refused(
    tmp_path: Path, key: str, value: str, number: str
) -> None:
    # YAML 1.1 counts in eights after a zero and in sixties after a colon, and says nothing.
    said = re.escape(f"{key}: YAML reads {value.strip('[]')} as {number}")
    with pytest.raises(ValueError, match=f"^{said}"):
        load_config([DEFAULT], [f"{key}={value}"])
    mine = tmp_path / "mine.yaml"
    block, _, name = key.rpartition(".")
    mine.write_text(f"{block}: {{{name}: {value}}}" if block else f"{name}: {value}")
    with pytest.raises(ValueError, match=rf"mine\.yaml: {said}"):
        load_config([DEFAULT, mine])


@pytest.mark.parametrize(
    ("value", "number"), [("0", 0), ("0.01", 0.01), ("1e-3", 1e-3), ("1_0", 10), ("0.0", 0)]
)
def test_numbers_that_look_like_themselves_are_read(value: str, number: float) -> None:
    # Each has a zero, an underscore or an exponent where others are octal, or no numbers to YAML.
    assert load_config([DEFAULT], [f"train.energy_weight={value}"]).train.energy_weight == number


def test_an_empty_mapping_takes_away_what_files_before_it_gave(tmp_path: Path) -> None:
    # Merged key by key, it would leave the references that a user wants to be fitted again.
    mine = tmp_path / "mine.yaml"
    mine.write_text("normalize: {reference_energies: {qm7x: {H: -13.6}}}\n")
    assert load_config([DEFAULT, mine]).normalize.reference_energies
    config = load_config([DEFAULT, mine], ["normalize.reference_energies={}"])
    assert config.normalize.reference_energies == {}


def test_an_override_of_one_branch_leaves_the_others() -> None:
    added = load_config([DEFAULT], ["models.qm7x.branches.more=[ani1x]"])
    assert set(added.models["qm7x"].branches) == {"qm7x", "more"}
    # All of them, given at once, replace all.
    replaced = load_config([DEFAULT], ["models.qm7x.branches={more: [ani1x]}"])
    assert set(replaced.models["qm7x"].branches) == {"more"}


def test_a_model_with_nothing_to_learn_is_refused() -> None:
    # Its loss would be zero from the first step on.
    for weights in (
        ["train.energy_weight=0", "train.force_weight=0"],
        ["train.source_weights.qm7x=0"],
        ["train.force_weight=0", "train.source_weights.qm7x={energy: 0}"],
    ):
        with pytest.raises(ValueError, match=r"models\.qm7x: .*leave nothing to learn"):
            load_config([DEFAULT], weights)
    load_config([DEFAULT], ["train.energy_weight=0"])


def test_no_source_takes_the_name_of_another_file_beside_the_ledgers() -> None:
    definition = "{format: extxyz, files: [a.xyz], level_of_theory: t, group_key: g}"
    with pytest.raises(ValueError, match=r"custom_sources\.leaks: reserved"):
        load_config([DEFAULT], [f"custom_sources.leaks={definition}"])


@pytest.mark.parametrize("like", ["mptraj", "b", "a"])
def test_groups_are_only_like_those_of_a_source_that_names_them_itself(like: str) -> None:
    # A typo would silently be a name of its own; b names its groups like mptrj, a like b.
    definition = "{files: [a.xyz], level_of_theory: t, group_key: g, groups_like: %s}"
    custom = [f"custom_sources.b={definition % 'mptrj'}", f"custom_sources.a={definition % like}"]
    with pytest.raises(ValueError, match=rf"custom_sources\.a\.groups_like: '{like}' is none of"):
        load_config([DEFAULT], custom)
    load_config([DEFAULT], [f"custom_sources.b={definition % 'mptrj'}"])


def test_presets_lie_on_top_of_the_default() -> None:
    config = load_config([DEFAULT, REPOSITORY / "workflow/presets/paper.yaml"])
    assert (config.model.encoder.width, config.model.encoder.layers) == (866, 4)
    assert (config.model.head.width, config.model.head.layers) == (889, 3)
    assert config.model.graph.max_neighbors == 20
    assert (config.train.energy_weight, config.train.force_weight) == (1.0, 100.0)
    assert config.download.mirrors == ("workflow/sample",)


def test_the_papers_preset_has_the_papers_five_sources_and_seven_models() -> None:
    config = load_config([DEFAULT, REPOSITORY / "workflow/presets/paper.yaml"])
    five = ("ani1x", "qm7x", "mptrj", "alexandria", "transition1x")
    assert config.sources == five
    assert tuple(config.models) == (*five, "baseline", "mtl", "mtl_conservative")
    for model in ("baseline", "mtl", "mtl_conservative"):
        assert config.models[model].sources == five


def test_null_takes_away_a_model_or_a_branch_of_an_earlier_file(tmp_path: Path) -> None:
    over = tmp_path / "over.yaml"
    over.write_text("models: {qm7x: null, mtl: {branches: {qm7x: null}}}\n")
    config = load_config([DEFAULT, over])
    assert "qm7x" not in config.models
    assert "qm7x" not in config.models["mtl"].branches
    assert "qm7x" in config.models["mtl_conservative"].branches
    # What stages read has no trace of it, and says the same.
    assert Config.model_validate(config.model_dump(mode="json")) == config


def test_settings_of_training_default_to_those_of_the_default_config() -> None:
    # A source's own short config would otherwise train with others than those that were tuned.
    assert load_config([DEFAULT]).train == TrainSettings()


def test_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config([DEFAULT]).train.epochs = 5  # type: ignore[misc]


def test_exported_schema_is_the_schema_of_the_code() -> None:
    path = REPOSITORY / "workflow/schemas/config.schema.json"
    assert json.loads(path.read_text()) == json_schema(), "run `make schema`"


def test_every_key_has_a_description() -> None:
    blocks = [Config.model_json_schema(), *Config.model_json_schema()["$defs"].values()]
    for block in blocks:
        for name, field in block["properties"].items():
            assert field.get("description"), f"{block['title']}.{name}"


def test_loading_a_config_does_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mtlpar.config import load_config; "
        f"load_config([Path({str(DEFAULT)!r})]); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("models", "problem"),
    [
        ({"a": {"from": "b"}}, "no model is called 'b'; a file is named by its path"),
        ({"a": {"from": "b"}, "b": {"from": "a"}}, "a starts from b starts from a"),
        ({"a": {"from": "b", "new": {"x": "y"}}, "b": {}}, "models.a has no such branch"),
        ({"a": {"from": "b", "new": {"all": "y"}}, "b": {}}, "no branch 'y' there, only all"),
    ],
)
def test_a_start_that_leads_nowhere_is_refused(
    models: dict[str, dict[str, Any]], problem: str
) -> None:
    content: dict[str, Any] = {"sources": ["ani1x"], "models": {}}
    for name, start in models.items():
        content["models"][name] = {"branches": {"all": ["ani1x"]}}
        if start:
            content["models"][name]["start_from"] = {
                "model": start["from"],
                "branches": start.get("new", {}),
            }
    with pytest.raises(ValidationError, match=re.escape(problem)):
        Config.model_validate(content)


OVERRIDES = {
    "seed": 0,
    "sources": ["ani1x"],
    "train": {"learning_rate": 1e-2, "source_weights": {"ani1x": 2.0}},
    "models": {
        "plain": {"branches": {"ani1x": ["ani1x"]}},
        "tuned": {
            "branches": {"ani1x": ["ani1x"]},
            "start_from": "plain",
            "train": {"learning_rate": 1e-4, "losses": {"energy": {"kind": "l2"}}},
            "model": {"head": {"forces": "conservative"}},
        },
        "received": {"branches": {"ani1x": ["ani1x"]}, "start_from": "somewhere/model.pt"},
    },
}


def test_a_model_has_settings_of_its_own_laid_over_those_of_all() -> None:
    config = Config.model_validate(OVERRIDES)
    tuned = config.train_of("tuned")
    assert (tuned.learning_rate, config.train_of("plain").learning_rate) == (1e-4, 1e-2)
    assert tuned.source_weights == {"ani1x": 2.0}
    assert (tuned.losses.energy.kind, tuned.losses.forces.kind) == ("l2", "l1")
    assert config.model_of("tuned").head.forces == "conservative"
    assert config.model_of("tuned").head.width == config.model.head.width
    assert config.model_of("plain").head.forces == "equivariant"


def test_a_start_is_a_model_of_the_config_or_a_file() -> None:
    config = Config.model_validate(OVERRIDES)
    assert config.start_file("plain") is None
    assert config.start_file("tuned") == config.workspace.model("plain")
    assert config.start_file("received") == Path("somewhere/model.pt")


def test_the_config_that_stages_read_says_the_same_of_every_model() -> None:
    # Defaults of the whole block, written out, would become overrides of this model.
    config = Config.model_validate(OVERRIDES)
    again = Config.model_validate(config.model_dump(mode="json"))
    for name in config.models:
        assert again.train_of(name) == config.train_of(name)
        assert again.model_of(name) == config.model_of(name)
    louder = config.model_dump(mode="json")
    louder["train"]["epochs"] = 99
    assert Config.model_validate(louder).train_of("tuned").epochs == 99


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ({"train": {"learning_rat": 1}}, "models.tuned.train.learning_rat"),
        (
            {"train": {"energy_weight": 0, "force_weight": 0, "stress_weight": 0}},
            "models.tuned: train.energy_weight, force_weight, stress_weight",
        ),
        ({"train": {"compile": True}}, "models.tuned.train.compile: not for conservative"),
        (
            {"train": {"branch_rates": {"nope": 0.5}}},
            "models.tuned.train.branch_rates.nope: no model has such a branch",
        ),
        ({"start_from": {"model": "plain", "mode": "head"}}, "models.tuned.start_from.mode"),
        ({"start_from": {"model": "plain", "mode": "last:0"}}, "models.tuned.start_from.mode"),
    ],
)
def test_mistakes_in_the_settings_of_one_model_are_told_by_their_key(
    model: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        check_config(
            {
                **OVERRIDES,
                "models": {
                    **OVERRIDES["models"],
                    "tuned": {**OVERRIDES["models"]["tuned"], **model},
                },
            },
            where="here",
        )


def test_installed_packages_are_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each look takes as long as reading a whole configuration; there was one for every name.
    looks = []
    points = registry.entry_points
    monkeypatch.setattr(registry, "entry_points", lambda **of: (looks.append(1), points(**of))[1])
    registry._plug_ins.cache_clear()
    own = {name: {"files": [f"{name}.xyz"], "level_of_theory": "PBE"} for name in ("one", "two")}
    load_config([DEFAULT], [f"custom_sources={json.dumps(own)}"])
    assert len(looks) == 1


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"stress_unit": "GPa"}, "stress_unit is the unit of what stress_key names"),
        ({"energy_key": None, "weights": {"energy": "w"}}, "weights.energy weights a label that"),
        ({"forces_key": None, "weights": {"forces": "w"}}, "weights.forces weights a label that"),
        ({"weights": {"stress": "w"}}, "weights.stress weights a label that is not read"),
        ({"energy_key": None, "isolated_atoms": {}}, "isolated_atoms give reference energies, and"),
    ],
)
def test_nothing_may_be_said_of_a_label_that_is_not_read(
    said: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        check_config(_own(**said), where="here")


def test_a_split_is_dealt_to_sources_that_are_there_and_give_none() -> None:
    given = {"splits": {"train": ["a.xyz"], "val": ["b.xyz"], "test": ["c.xyz"]}}
    dealt = {"normalize": {"split": {"own": "blocks"}}}
    check_config(_own() | dealt, where="here")
    with pytest.raises(ValueError, match=r"custom_sources\.own\.splits gives the splits"):
        check_config(_own(**given) | dealt, where="here")
    with pytest.raises(ValueError, match=r"normalize\.split\.one: not listed in sources"):
        check_config(_own() | {"normalize": {"split": {"one": "blocks"}}}, where="here")


def test_a_custom_source_that_is_written_out_in_full_says_the_same() -> None:
    # Written out it names a unit of stresses too, which nothing reads.
    config = Config.model_validate(_own())
    assert Config.model_validate(config.model_dump(mode="json")) == config


def _own(**said: Any) -> dict[str, Any]:
    source = {"files": ["*.xyz"], "level_of_theory": "PBE", **said}
    return {
        "sources": ["own"],
        "custom_sources": {"own": source},
        "models": {"own": {"branches": {"own": ["own"]}}},
    }
