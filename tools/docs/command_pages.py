"""The page of the reference with every command and option, made from the argument parser."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator

from mtlpar.cli import build_parser


def commands() -> dict[str, argparse.ArgumentParser]:
    """Parser of each command by what is typed to reach it, ``mtlpar plan layout`` and the like."""
    return dict(_walk(build_parser(), "mtlpar"))


def page() -> str:
    """Markdown of the page."""
    lines = [
        "# Commands",
        "",
        "*For everybody at a terminal.* Every command and every option, as `--help` prints them. "
        "Exit status: 0 if all went well, 1 for a mistake that the message explains, 2 for an "
        "unknown option, 75 for a run that was stopped in good order and can go on.",
        "",
    ]
    for name, parser in commands().items():
        level = "#" * (1 + len(name.split()))
        if name == "mtlpar":
            lines += ["Options of `mtlpar` itself:", "", *_arguments(parser), ""]
            continue
        lines += [f"{level} `{name}` {{ #{name.replace(' ', '-')} }}", ""]
        lines += [_text(parser.description or ""), ""]
        lines += ["```text", _usage(parser), "```", "", *_arguments(parser), ""]
        if parser.epilog:
            lines += ["```text", parser.epilog.strip("\n"), "```", ""]
    return "\n".join(lines)


def _walk(
    parser: argparse.ArgumentParser, name: str
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            for inner, below in action.choices.items():
                below.description = below.description or helps.get(inner) or ""
                yield from _walk(below, f"{name} {inner}")


def _usage(parser: argparse.ArgumentParser) -> str:
    """The usage in lines of one width, whatever the terminal's."""
    usage = re.sub(r"\s+", " ", parser.format_usage().removeprefix("usage: ")).strip()
    return textwrap.fill(usage, 72, subsequent_indent="    ", break_on_hyphens=False)


def _text(text: str) -> str:
    """A help text as Markdown: one sentence, its signs of markup made harmless."""
    text = text.strip().replace("<", "&lt;").replace("*", r"\*")
    text = text.replace("[", r"\[").replace("__", r"\_\_").replace("%%", "%")
    text = text[:1].upper() + text[1:]
    return text if not text or text.endswith((".", ":", "?", "\n")) else f"{text}."


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        is_shown = action.help != argparse.SUPPRESS
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction) or not is_shown:
            continue
        formatter = parser._get_formatter()
        names = action.option_strings or [str(action.metavar or action.dest)]
        value = ""
        if action.option_strings and action.nargs != 0:
            value = " " + formatter._format_args(action, action.dest.upper())
        shown = ", ".join(f"`{name}{value}`" for name in names)
        text = _text(formatter._expand_help(action)) if action.help else ""
        yield f"- {shown}{': ' if text else ''}{text}"
