"""Write results to the docs: the scripts that measure them write the text between the marks."""

from pathlib import Path


def put(page: Path, block: str, text: str) -> None:
    """Write the text between the marks of a block."""
    begin, end = f"<!-- {block} -->\n", f"<!-- /{block} -->\n"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    page.write_text(before + begin + "\n" + text + "\n" + end + rest.split(end)[1], encoding="utf-8")
