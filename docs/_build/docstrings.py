"""
An extension of griffe that turns docstrings in TRL's form into Markdown for the site, without importing anything.

A section such as `Args:` becomes a bold line and a definition list, and a reference such as [`real_select`] becomes a link. Names from
other packages are shortened to their last part, as in the docs of those packages.
"""

import inspect
import re
import textwrap

import griffe


CODE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
SECTION = re.compile(r"(?<=\n\n)(\S.*):\n((?:[ ]{4}.*\n+)*)")
ITEM = re.compile(r"^(\S.*?):(?: +(\S.*))?\n((?:[ ]{4}.*\n|\n)*)", re.MULTILINE)
REFERENCE = re.compile(r"\[`(~?)([\w.]+)`\](?![(\[])")
NAMES = re.compile(r"^((?:[*]*\w+(?:, )?)+)(?= \(|$|,)")


class Docstrings(griffe.Extension):
    """Rewrites the docstring of each public object that is loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: object) -> None:
        self.rewrite(pkg, {name for name, member in pkg.members.items() if member.is_alias}, set())

    def rewrite(self, owner: griffe.Module | griffe.Class, exported: set[str], seen: set[str]) -> None:
        for member in owner.members.values():
            if member.is_alias or member.path in seen:
                continue
            seen.add(member.path)
            if member.docstring is not None:
                member.docstring.value = as_markdown(member.docstring.value, owner.package.name, exported)
            if isinstance(member, griffe.Module | griffe.Class):
                self.rewrite(member, exported, seen)


def as_markdown(docstring: str, package: str, exported: set[str]) -> str:
    """A docstring as Markdown, with links to what `package` exports."""
    parts = CODE.split(docstring + "\n")  # text, code, text, ...
    parts[::2] = [SECTION.sub(_section, text) for text in parts[::2]]

    def link(found: re.Match[str]) -> str:
        short, path = found.groups()
        name = path.partition(".")[0]
        if name in exported:
            return f"[`{path}`][{package}.{name}]"
        return f"`{path.rpartition('.')[2] if short else path}`"

    return REFERENCE.sub(link, "".join(parts))


def _section(found: re.Match[str]) -> str:
    title, body = found[1], textwrap.dedent(found[2])
    return f"**{title}**\n\n{body if title.startswith('Returns') else ITEM.sub(_item, body)}\n"


def _item(found: re.Match[str]) -> str:
    head, first, rest = found.groups()
    head = NAMES.sub(lambda names: ", ".join(f"`{name}`" for name in names[1].split(", ")), head)
    lines = inspect.cleandoc(f"{first or ''}\n{rest}").strip().splitlines()
    return f"{head}\n:   " + "\n    ".join(lines).replace("    \n", "\n") + "\n\n"
