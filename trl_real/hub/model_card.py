"""The card of a model: TRL's, and how its training pairs were selected."""

import math
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from ..config import SelectionConfig
from ..core.redaction import redact
from ..selection.report import SelectionReport
from . import markdown
from .card_parts import DPO_CITATION, OWN_CITATION, is_repo_id, link, options_yaml, render


TRAINING = "training pairs"
METRICS = ("rewards/margins", "rewards/accuracies")


def add_selection(
    card: ModelCard,
    report: SelectionReport | None,
    *,
    config: SelectionConfig,
    base_model: str | None,
    adapter: bool,
    selected_id: str | None,
    source_id: str | None,
    history: list[dict[str, float]],
) -> ModelCard:
    """
    TRL's card of a model, completed: how its training pairs were selected, what it came to, and what TRL cannot know.

    Args:
        card ([`~huggingface_hub.ModelCard`]):
            The card that TRL has made.
        report ([`SelectionReport`], *optional*):
            What was selected; `None` of a stream.
        config ([`SelectionConfig`]):
            The options of the selection.
        base_model (`str`, *optional*):
            Id or path of the model that was trained.
        adapter (`bool`):
            Whether the model is a PEFT adapter.
        selected_id (`str`, *optional*):
            The dataset on the Hub that holds the selected pairs.
        source_id (`str`, *optional*):
            The one that they were selected from.
        history (`list[dict[str, float]]`):
            What the trainer has logged. The last margins and accuracies of each dataset are the results.

    Returns:
        [`~huggingface_hub.ModelCard`]: The completed card.
    """
    results = _last_results(history)
    data: Any = card.data
    on_hub = is_repo_id(base_model) or re.fullmatch(r"[\w-][\w.-]*", base_model or "") is not None  # such as "gpt2"
    data["base_model"] = base_model if on_hub else None
    if adapter:
        data["library_name"] = "peft"
        data["base_model_relation"] = "adapter" if on_hub else None
    data.pop("licence", None)  # a leftover of TRL's template
    data["tags"] = sorted(data.get("tags") or ())
    data["model_name"] = data.get("model_name") or "model"
    data["eval_results"] = [
        EvalResult(
            task_type="text-generation",
            dataset_type=selected_id if pairs == TRAINING and selected_id is not None else "preference-pairs",
            dataset_name=pairs,
            # Results of datasets that differ in their names alone would be taken for those of one.
            dataset_config=None if pairs == TRAINING else pairs,
            dataset_split="train" if pairs == TRAINING else "test",
            metric_type=metric,
            metric_value=value,
        )
        for (pairs, metric), value in results.items()
    ]
    section = render(
        "model_selection.md.jinja",
        report=report,
        config=config,
        selected=None if selected_id is None else link(selected_id, "datasets"),
        source=None if source_id is None else link(source_id, "datasets"),
        results=[(pairs, metric, f"{value:.4g}") for (pairs, metric), value in results.items()],
        config_yaml=options_yaml(config),
    )
    # TRL links whatever it is told, and a folder is no page of the Hub.
    local = f"{markdown.code(Path(base_model).name)}, a local model" if base_model else "a local model"
    text = card.text.replace("[None](https://huggingface.co/None)", local)
    if not on_hub:
        text = text.replace(f"[{base_model}](https://huggingface.co/{base_model})", local)
    text = text.replace('model="None"', 'model="path/to/this/model"')
    body, mark, rest = text.partition("\n## Citations")
    citations = "\n\n".join(markdown.fenced(citation, "bibtex") for citation in (DPO_CITATION, OWN_CITATION))
    text = f"{body.strip()}\n\n{section}\n{mark}{rest.rstrip()}\n\nCite DPO and `trl-real` as:\n\n{citations}\n"
    return ModelCard(f"---\n{data}\n---\n\n{redact(text)}")


def _last_results(history: list[dict[str, float]]) -> dict[tuple[str, str], float]:
    """The last margin and accuracy of the training pairs and of each evaluation dataset, by the names of both."""
    results = {}
    for entry in history:
        # TRL gives the name of an evaluation dataset to the numbers of Transformers alone.
        names = [match[1] for key in entry if (match := re.fullmatch("eval_(.+)_runtime", key, re.DOTALL))]
        for metric in METRICS:
            for key, pairs in ((metric, TRAINING), (f"eval_{metric}", "held-out pairs")):
                if key in entry and math.isfinite(entry[key]):
                    named = f" ({markdown.one_line(names[0])})" if names else ""
                    results[pairs + named, metric] = entry[key]
    return results
