"""A sample of prompts with several scored responses each, for trying things out: `load_sample`."""

from importlib.resources import files

from datasets import Dataset


SAMPLES = ("standard", "conversational")


def load_sample(name: str = "standard") -> Dataset:
    r"""
    Load the sample that ships with the package: prompts of many kinds with 4 to 6 responses each. The responses were written
    for this project, differ clearly in quality, and are scored from 1 to 10.

    Use the sample for trying things out, not for comparing strategies. Most prompts have one response that is off topic, and
    `"easy"` usually picks it.

    Args:
        name (`str`, *optional*, defaults to `"standard"`):
            `"standard"` for prompts and responses as text, or `"conversational"` for messages, with several turns and system
            messages.

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
