"""Pages of the reference with every setting, made from the settings classes."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mtlpar.config.schema import Config

_UNITS: Final = {
    "_ev_per_angstrom": "eV/Å",
    "_angstrom": "Å",
    "_bytes": "bytes",
    "_minutes": "minutes",
    "_s": "seconds",
}
"""Units by the end of a setting's name."""

_NAMES: Final = {
    "custom_sources": "SOURCE",
    "models": "MODEL",
    "train.source_weights": "SOURCE",
    "models.MODEL.start_from.branches": "BRANCH",
    "study.transfer.families": "FAMILY",
}
"""What stands for the keys of a mapping that users choose."""

_REPEATED: Final = {
    "study.model": "model",
    "models.MODEL.model": "model",
    "models.MODEL.train": "train",
}
"""Blocks that have the keys of another one, by its name."""

_PLAIN: Final = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    Path: "path",
    type(None): "null",
}

_LIMITS: Final = (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most"))

_STACK: Final = """\
## Several files { #several-files }

`mtlpar ... --config FILE ...` and `snakemake --configfile FILE ...` lay files over `config.yaml`,
later ones over earlier ones, and the command line over all of them, by the same rules:

- Blocks are merged key by key. Values, lists and an empty block `{}` replace what is below.
- **The branches of a model replace those below**, so a model has the branches that the last file
  gives it. With a null among them they are a change: `{qm7x: null, small: [qm7x]}` takes `qm7x`
  away, adds `small` and leaves the others.
- null takes away a model (`models: {mtl: null}`), and elsewhere stands for the value null.
- On the command line too: `--set train.max_gradient_norm=null`, or
  `--config models__mtl__branches__qm7x=null`.

If a file changes the branches of a model, `snakemake -n` and every command say which it gets.
"""

GENERAL: Final = "general"
"""The page of what belongs to no stage."""

_INTRODUCTIONS: Final = {
    GENERAL: "What the run is made of: its sources, its models and where files lie.",
    "download": "Where native files come from. [Download](../../download.md) explains it.",
    "extract": "How native files are read and checked. "
    "[Data quality](../../data_quality.md) explains it.",
    "normalize": "Splits and reference energies. "
    "[Data quality](../../data_quality.md) explains it.",
    "pack": "How packs are written. [The packed store](../../packs.md) explains it.",
    "model": "The architecture of all models. [The model](../../model.md) explains it.",
    "train": "How models are trained. [Architecture](../../architecture.md#one-training-step) has "
    "the objective, [planning](../../planning.md) the layouts.",
    "evaluate": "How trained models are tested.",
    "report": "Tables and figures.",
    "study": "Measurements of memory, scaling and communication, which "
    "[planning](../../planning.md#measured) explains, of "
    "[transfer](../../finetuning.md#on-data-of-your-own), and of "
    "[compatibility](../../compatibility.md#measured-by-training).",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as users see it.

    Attributes:
        key: Dotted key, with words in capitals for names that users choose.
        kind: What values it takes, in words.
        default: The default as YAML, or None if the setting is required.
        text: What it does.
        unit: Unit of the value; empty if it has none.
        limits: Bounds of the value; empty if it has none.
        only: The kind of encoder or the like that has this setting; empty if all have.
    """

    key: str
    kind: str
    default: str | None
    text: str
    unit: str = ""
    limits: str = ""
    only: str = ""

    @property
    def page(self) -> str:
        """Name of the page that shows it."""
        block = self.key.partition(".")[0]
        field = Config.model_fields[block]
        is_stage = not _is_named(field.annotation) and _blocks(field.annotation)
        return block if is_stage and block != "paths" else GENERAL


def all_settings() -> list[Setting]:
    """Every setting of the configuration, in the order of the schema."""
    return list(_walk(Config, ""))


def pages() -> dict[str, str]:
    """Markdown of each page by its name, ``index`` first."""
    settings = all_settings()
    by_page: dict[str, list[Setting]] = {}
    for setting in settings:
        by_page.setdefault(setting.page, []).append(setting)
    return {"index": _index(by_page)} | {
        name: _page(name, members) for name, members in by_page.items()
    }


def _walk(block: type[BaseModel], above: str, only: str = "") -> Iterator[Setting]:
    for name, field in block.model_fields.items():
        key = f"{above}{name}"
        if page := _REPEATED.get(key):
            # The same block once more: shown as one setting that refers to the other page.
            text = f"{field.description} It has the keys of [{page}]({page}.md)."
            changed = field.default.model_dump(mode="json", exclude_unset=True)
            yield Setting(key, "block", _as_yaml(changed), text)
            continue
        inner = _blocks(field.annotation)
        if not inner or _is_named(field.annotation) or _is_optional(field.annotation):
            yield _setting(key, field, only)
        below = f"{key}.{_NAMES[key]}." if _is_named(field.annotation) else f"{key}."
        yield from _walk_kinds(inner, below) if len(inner) > 1 else _walk_all(inner, below, only)


def _walk_all(blocks: list[type[BaseModel]], above: str, only: str) -> Iterator[Setting]:
    for block in blocks:
        yield from _walk(block, above, only)


def _walk_kinds(blocks: list[type[BaseModel]], above: str) -> Iterator[Setting]:
    """Settings of blocks that ``kind`` tells apart: what all have once, then what each adds."""
    kinds = [get_args(block.model_fields["kind"].annotation)[0] for block in blocks]
    names = dict.fromkeys(name for block in blocks for name in block.model_fields)
    for name in names:
        owners = [
            (kind, block)
            for kind, block in zip(kinds, blocks, strict=True)
            if name in block.model_fields
        ]
        only = "" if len(owners) == len(blocks) else " or ".join(kind for kind, _ in owners)
        setting = _setting(f"{above}{name}", owners[0][1].model_fields[name], only)
        if name == "kind":
            choices = " or ".join(f"`{kind}`" for kind in kinds)
            setting = Setting(setting.key, choices, kinds[0], setting.text)
        yield setting


def _setting(key: str, field: FieldInfo, only: str) -> Setting:
    default = None
    if not field.is_required():
        default = _as_yaml(field.get_default(call_default_factory=True))
    ends = (unit for end, unit in _UNITS.items() if key.endswith(end))
    limits = [
        f"{word} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, word in _LIMITS
        if getattr(limit, name, None) is not None
    ]
    return Setting(
        key=key,
        kind=_kind(field.annotation),
        default=default,
        text=field.description or "",
        unit=next(ends, ""),
        limits=", ".join(limits),
        only=only,
    )


def _blocks(annotation: Any) -> list[type[BaseModel]]:
    """Settings classes that a type speaks of, whatever is around them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [block for inner in get_args(annotation) for block in _blocks(inner)]


def _is_named(annotation: Any) -> bool:
    """Whether a type is a mapping from names that users choose to blocks."""
    return get_origin(annotation) is dict and bool(_blocks(annotation))


def _is_optional(annotation: Any) -> bool:
    return type(None) in get_args(annotation)


def _kind(annotation: Any) -> str:
    """What values a type allows, in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in inner)
    if origin is Annotated:
        return _kind(inner[0])
    if origin is tuple:
        return f"list of {_kind(inner[0])}"
    if origin is dict:
        return f"mapping from names to {_kind(inner[1])}"
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_kind(one) for one in inner))
    return "block"


def _as_yaml(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    elif isinstance(value, Path):
        value = str(value)
    elif isinstance(value, tuple):
        value = list(value)
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=200)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _index(by_page: Mapping[str, list[Setting]]) -> str:
    count = sum(map(len, by_page.values()))
    lines = [
        "# Settings",
        "",
        "*For everybody who edits `config.yaml`.* Every one of the "
        f"{count} settings, with its default. Write a setting into `config.yaml`, or give it on "
        "the command line, which wins:",
        "",
        "```sh",
        "mtlpar train --model mtl --set train.epochs=5",
        "snakemake --config train__epochs=5    # two underscores for a dot",
        "```",
        "",
        "A mistake in a name or a value is an error that names file and line.",
        "",
        _STACK,
    ]
    for page, settings in by_page.items():
        lines += [f"## {page}", "", _INTRODUCTIONS[page], ""]
        lines += ["| setting | default |", "|---|---|"]
        for setting in settings:
            default = "*required*" if setting.default is None else f"`{setting.default}`"
            lines.append(f"| [`{setting.key}`]({page}.md#{setting.key}) | {default} |")
        lines.append("")
    return "\n".join(lines)


def _page(name: str, settings: list[Setting]) -> str:
    title = "General settings" if name == GENERAL else f"Settings of {name}"
    lines = [f"# {title}", "", f"{_INTRODUCTIONS[name]} [All settings](index.md).", ""]
    for setting in settings:
        facts = [setting.kind]
        if setting.limits:
            facts.append(setting.limits)
        if setting.unit:
            facts.append(f"in {setting.unit}")
        facts.append("required" if setting.default is None else f"default `{setting.default}`")
        if setting.only:
            facts.append(f"only for {setting.only}")
        lines += [f"## `{setting.key}` {{ #{setting.key} }}", ""]
        lines += [f"*{' · '.join(facts)}*", "", setting.text, ""]
    return "\n".join(lines)
