"""Parts that dataset cards and model cards share."""

import dataclasses
import importlib.metadata
import re
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import constants

from .. import __version__
from ..config import SelectionConfig
from ..core.repo_ids import is_repo_id
from ..embedding.embedder import MAX_LENGTH
from ..embedding.identity import STATIC, embedder_name, is_static
from ..selection.report import SelectionReport
from ..strategies import STRATEGIES
from . import markdown


REAL_CITATION = """\
@article{zhang2024real,
    title  = {{REAL: Response Embedding-based Alignment for LLMs}},
    author = {Honggen Zhang and Xufeng Zhao and Igor Molybog and June Zhang},
    year   = 2024,
    eprint = {arXiv:2409.17169}
}"""
DPO_CITATION = """\
@inproceedings{rafailov2023direct,
    title     = {{Direct Preference Optimization: Your Language Model is Secretly a Reward Model}},
    author    = {Rafael Rafailov and Archit Sharma and Eric Mitchell and Christopher D. Manning and Stefano Ermon and Chelsea Finn},
    booktitle = {Advances in Neural Information Processing Systems 36},
    year      = 2023,
    url       = {https://arxiv.org/abs/2305.18290}
}"""
OWN_CITATION = f"""\
@software{{trl_real,
    title   = {{{{trl_real: label only the response pairs that are worth a label}}}},
    author  = {{{{The trl_real authors}}}},
    version = {{{__version__}}},
    license = {{Apache-2.0}},
    year    = 2026
}}"""


def render(template: str, **variables: Any) -> str:
    """Render a template of this package."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trl_real.hub"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "code": markdown.code,
        "quote": markdown.quote,
        "fenced": markdown.fenced,
        "plain": markdown.escape,
    }
    environment.globals |= {"strategy": _strategy, "embedder": _embedder, "budget": _budget, "versions": _versions}
    return environment.get_template(template).render(variables).strip()


def endpoint() -> str:
    """The URL of the Hub, without a password that it may contain."""
    return re.sub("//[^/@]*@", "//", constants.ENDPOINT)


def link(repo_id: str, kind: str) -> str:
    """A link to a repository on the Hub. `kind` is `"models"`, `"datasets"` or `"spaces"`. For a local path, only its last part."""
    if not is_repo_id(repo_id):
        return markdown.code(Path(repo_id).name)
    path = repo_id if kind == "models" else f"{kind}/{repo_id}"
    return f"[{markdown.escape(repo_id)}]({endpoint()}/{path})"


def options(config: SelectionConfig) -> dict[str, Any]:
    """The options of a selection as plain values. A local embedder is named without its path, which is private."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(SelectionConfig)}
    name = embedder_name(config.embedder)
    model = name.removeprefix(STATIC)
    static = name.removesuffix(model)
    return {**values, "embedder": static + (model if is_repo_id(model) else Path(model).name)}


def options_yaml(config: SelectionConfig) -> str:
    """The options of a selection as a recipe."""
    return yaml.safe_dump(options(config), sort_keys=False, allow_unicode=True)


def _strategy(report: SelectionReport) -> str:
    if report.strategy is None:
        return "none: all given pairs were kept"
    first = (STRATEGIES[report.strategy].cost.__doc__ or "").strip().split("\n\n")[0].split(". ")[0]
    return f"{markdown.code(report.strategy)}: {' '.join(first.split()).rstrip('.')}"


def _embedder(report: SelectionReport) -> str:
    if report.embedder is None:
        return "none"
    policy = re.fullmatch(r"policy \((.*)\)", report.embedder)
    shown = link(report.embedder.removeprefix(STATIC), "models")
    if policy is not None:
        shown = f"the policy itself, {link(policy[1], 'models')}"
    elif is_static(report.embedder):
        shown = f"static, distilled from {shown}"
    revision = f", revision {markdown.code(report.embedder_revision)}" if report.embedder_revision else ""
    limit = f"{report.embedder_max_length or MAX_LENGTH} tokens of a response"
    first = f", the first {limit}" if report.embedder_max_length else f", at most the first {limit}"
    return shown + revision + first if "/" in report.embedder else shown + revision


def _budget(report: SelectionReport) -> str:
    unit = "pairs" if report.budget_cost is None else markdown.code(report.budget_cost)
    assert report.budget is not None
    amount = f"{100 * report.budget:g}% of the {unit}" if report.budget < 1 else f"{report.budget:,} {unit}"
    if report.budget_strategy in (None, report.strategy):
        return amount
    return f"{amount}, ranked by the strategy {markdown.code(report.budget_strategy)}"


def _versions() -> str:
    others = ("sentence-transformers", "datasets", "transformers", "torch")
    return ", ".join([f"trl-real {__version__}", *(f"{name} {importlib.metadata.version(name)}" for name in others)])
