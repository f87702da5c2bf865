"""The static embedder as a table: what docs/embedder.md shows."""

from typing import Any

from report import difference, share


def static_table(results: dict[str, Any]) -> str:
    """What docs/embedder.md shows: wrong labels with the default embedder and with the static one."""
    encoder, static = (results[name]["strategies"]["AlpacaEval"] for name in ("reliability", "static_tier"))
    drawn = static["random"]["wrong"]
    lines = [
        f"Wrong labels on AlpacaEval with simulated annotators, one pair per prompt ([Study](study.md)); `random` has {share(drawn)}:",
        "",
        "| Strategy | default embedder | minus `random` | static embedder | minus `random` |",
        "|---|---|---|---|---|",
    ]
    for name in ("easy", "centroid", "aepo"):
        cells = [
            cell
            for found in (encoder, static)
            for cell in (share(found[name]["wrong"]), difference(found[name]["less_random"]))
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
