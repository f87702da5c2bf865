"""Complete TRL's model card with the selection of the training pairs."""

import json
import math
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from ..config import SelectionConfig
from ..core.redaction import redact
from ..core.repo_ids import is_repo_id
from ..selection.report import SelectionReport
from . import markdown
from .card_parts import DPO_CITATION, OWN_CITATION, link, options_yaml, render


# How TRL's quick start passes the question: as a conversation, which needs a chat template.
CONVERSATION = '[{"role": "user", "content": question}]'
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
    path: str = ".",
    chat: bool = True,
) -> ModelCard:
    """
    Complete TRL's model card with the selection of the training pairs, the results, and details that TRL does not know.

    Args:
        card ([`~huggingface_hub.ModelCard`]):
            The card that TRL created.
        report ([`SelectionReport`], *optional*):
            The report on the selection; `None` for a stream.
        config ([`SelectionConfig`]):
            The options of the selection.
        base_model (`str`, *optional*):
            Id or path of the model that was trained.
        adapter (`bool`):
            Whether the model is a PEFT adapter.
        selected_id (`str`, *optional*):
            The dataset on the Hub with the selected pairs.
        source_id (`str`, *optional*):
            The dataset on the Hub that they were selected from.
        history (`list[dict[str, float]]`):
            The log of the trainer. The last margins and accuracies of each dataset are the results.
        path (`str`, *optional*, defaults to `"."`):
            The path from which the quick start loads a model that is not on the Hub.
        chat (`bool`, *optional*, defaults to `True`):
            Whether the tokenizer has a chat template, which a conversation in the quick start needs.

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
    data.pop("licence", None)  # a placeholder in TRL's template
    data["tags"] = sorted(data.get("tags") or ())
    data["model_name"] = data.get("model_name") or "model"
    data["eval_results"] = [
        EvalResult(
            task_type="text-generation",
            dataset_type=selected_id if pairs == TRAINING and selected_id is not None else "preference-pairs",
            dataset_name=pairs,
            # The Hub would merge the results of datasets that differ only in their names.
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
    # TRL links every base model, but a local folder has no page on the Hub.
    local = f"{markdown.code(Path(base_model).name)}, a local model" if base_model else "a local model"
    text = card.text.replace("[None](https://huggingface.co/None)", local)
    if not on_hub:
        text = text.replace(f"[{base_model}](https://huggingface.co/{base_model})", local)
    hint = "# Run this in the folder of the model.\n" if path == "." else ""
    text = re.sub(r'(generator = .*)model="None"', lambda found: f"{hint}{found[1]}model={json.dumps(path)}", text)
    if not chat:
        text = text.replace(CONVERSATION, "question")
    text = re.sub(r"\n([ \t]*\n)+", "\n\n", text)  # TRL's template leaves lines for badges that are not there
    body, mark, rest = text.partition("\n## Citations")
    citations = "\n\n".join(markdown.fenced(citation, "bibtex") for citation in (DPO_CITATION, OWN_CITATION))
    text = f"{body.strip()}\n\n{section}\n{mark}{rest.rstrip()}\n\nCite DPO and `trl-real` as:\n\n{citations}\n"
    return ModelCard(f"---\n{data}\n---\n\n{redact(text)}")


def _last_results(history: list[dict[str, float]]) -> dict[tuple[str, str], float]:
    """The last margin and accuracy of the training pairs and of each evaluation dataset."""
    results = {}
    for entry in history:
        # TRL adds the name of an evaluation dataset only to the numbers of Transformers.
        names = [match[1] for key in entry if (match := re.fullmatch("eval_(.+)_runtime", key, re.DOTALL))]
        for metric in METRICS:
            for key, pairs in ((metric, TRAINING), (f"eval_{metric}", "held-out pairs")):
                if key in entry and math.isfinite(entry[key]):
                    named = f" ({markdown.one_line(names[0])})" if names else ""
                    results[pairs + named, metric] = entry[key]
    return results
