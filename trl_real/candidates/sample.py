"""A sample of prompts with several scored responses each, to try everything on: `load_sample`."""

from importlib.resources import files

from datasets import Dataset


SAMPLES = ("standard", "conversational")


def load_sample(name: str = "standard") -> Dataset:
    r"""
    Load the sample that ships with the package: prompts of many kinds with 4 to 6 responses each, of clearly different
    quality, written and scored (1 to 10) for this project.

    It is for trying things out, not for judging strategies: most prompts have one response that is off topic, and
    `"easy"` mostly picks that one.

    Args:
        name (`str`, *optional*, defaults to `"standard"`):
            `"standard"` for prompts and responses as text, `"conversational"` for messages, as chat models want them:
            several turns, and rules in a system message.

    Returns:
        [`~datasets.Dataset`]: Columns `topic`, `prompt`, `responses` and `scores`.

    Example:

    ```python
    >>> from trl_real import load_sample

    >>> load_sample().column_names
    ['topic', 'prompt', 'responses', 'scores']
    ```
    """
    if name not in SAMPLES:
        raise ValueError(f"`name` must be one of {list(SAMPLES)}, got {name!r}.")
    return Dataset.from_json(str(files("trl_real.candidates") / "samples" / f"{name}.jsonl"))
