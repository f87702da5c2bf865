"""Where `trl-real generate` and `trl-real score` write candidates."""

from pathlib import Path

from datasets import Dataset


def candidates_path(output_dir: str, inputs: list[str] | None) -> Path:
    """The file for the candidates; raises if it is one of the inputs."""
    path = Path(output_dir) / "candidates.jsonl"
    if path.resolve() in [Path(name).resolve() for name in inputs or ()]:
        raise ValueError(f"`--output_dir {output_dir}` would replace {path}, which is read. Choose another folder.")
    return path


def write_candidates(candidates: Dataset, path: Path) -> None:
    """Write candidates in one go, so that nobody finds a half of them."""
    unfinished = path.with_name(f".{path.name}")
    try:
        candidates.to_json(unfinished, force_ascii=False)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
