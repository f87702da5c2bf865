"""`trl-real score`: score candidate responses."""

from dataclasses import dataclass, field

from ..core.output_folder import OutputFolder
from ..sampling.judge import CRITERIA
from ..sampling.score import score_candidates
from .arguments import SourceArguments, parse
from .errors import users_mistakes
from .generate import CANDIDATES
from .pairs_file import write_pairs


LOG = "score_log.jsonl"


@dataclass
class ScoreArguments(SourceArguments):
    """
    Arguments of `trl-real score`: those of [`score_responses`], the source of the candidates and the output folder.

    Parameters:
        model (`str`):
            Hub id or path of the reward model; with `base_url`, the name of a judge on the server.
        output_dir (`str`, *optional*, defaults to `"scored"`):
            The output folder for `candidates.jsonl`, and for the log from which an interrupted run resumes.
        base_url, api_key_env, criteria, batch_size, dtype, concurrency:
            See [`score_responses`].
    """

    model: str | None = field(
        default=None,
        metadata={
            "help": "Reward model, as a Hub id or a path; with --base_url, the name of a judge on the server.",
            "aliases": ["--model_name_or_path"],  # the name in TRL
        },
    )
    output_dir: str = field(default="scored", metadata={"help": "Output folder for candidates.jsonl and the log."})
    base_url: str | None = field(
        default=None, metadata={"help": "URL of an OpenAI-compatible server, such as http://localhost:8000/v1."}
    )
    api_key_env: str = field(
        default="OPENAI_API_KEY", metadata={"help": "Environment variable with the API key for --base_url."}
    )
    criteria: str = field(
        default=CRITERIA, metadata={"help": "End of the question 'Which one is ...?' that a judge answers."}
    )
    batch_size: int = field(default=16, metadata={"help": "Number of responses that a reward model scores at once."})
    dtype: str = field(
        default="auto",
        metadata={"help": "Precision. 'auto' is bfloat16 if the hardware supports it, and float32 otherwise."},
    )
    concurrency: int = field(default=8, metadata={"help": "Maximum number of concurrent requests to a judge."})


def score(argv: list[str]) -> None:
    """Score candidates and write them to a folder."""
    (arguments,) = parse("score", (ScoreArguments,), argv)
    folder = OutputFolder(arguments.output_dir)
    with users_mistakes(), folder.locked():
        folder.check(CANDIDATES, arguments.inputs)
        if arguments.model is None:
            raise ValueError("`--model` is required: the reward model or judge.")
        how = ("base_url", "api_key_env", "criteria", "batch_size", "dtype", "concurrency")
        candidates, counts = score_candidates(
            arguments.load(),
            arguments.model,
            folder.path / LOG,
            **{name: getattr(arguments, name) for name in how},
        )
        with folder.replacing(CANDIDATES) as stage:
            note = write_pairs(candidates, stage, "candidates")
            written = ", ".join(path.name for path in stage.iterdir())
    print(counts, *counts.warnings(), *([note] if note else []), sep="\n")
    print(f"Written to {folder.path}: {written}.")
