"""`trl-real generate`: sample candidate responses to prompts."""

from dataclasses import dataclass, field

from ..core.output_folder import OutputFolder
from ..sampling.generate import BACKENDS, sample_candidates
from ..sampling.options import SamplingOptions
from .arguments import SourceArguments, parse
from .errors import users_mistakes
from .pairs_file import write_pairs


LOG = "generate_log.jsonl"
# One of these is written: Parquet if a column does not fit into JSON.
CANDIDATES = ("candidates.jsonl", "candidates.parquet")


@dataclass
class GenerateArguments(SourceArguments):
    """
    Arguments of `trl-real generate`: those of [`SourceArguments`] and [`generate_responses`], and the output folder.

    Parameters:
        model (`list[str]`):
            Hub ids or paths of the models; with `base_url`, their names on the server.
        prompt_column (`str`, *optional*, defaults to `"prompt"`):
            The column with the prompts.
        output_dir (`str`, *optional*, defaults to `"sampled"`):
            The output folder for `candidates.jsonl`, and for the log from which an interrupted run resumes.
        n, backend, base_url, api_key_env, temperature, top_p, max_new_tokens, system_prompt, seed, batch_size, dtype, concurrency:
            See [`generate_responses`].
    """

    model: list[str] | None = field(
        default=None,
        metadata={
            "help": "Models to sample from, as Hub ids or paths; with --base_url, their names on the server.",
            "aliases": ["--model_name_or_path"],  # the name in TRL
        },
    )
    prompt_column: str = field(default="prompt", metadata={"help": "Column with the prompts."})
    output_dir: str = field(default="sampled", metadata={"help": "Output folder for candidates.jsonl and the log."})
    n: int = field(default=4, metadata={"help": "Number of responses to sample per prompt and model."})
    backend: str = field(
        default="transformers",
        metadata={"help": "Library that runs the model on this machine.", "choices": list(BACKENDS)},
    )
    base_url: str | None = field(
        default=None, metadata={"help": "URL of an OpenAI-compatible server, such as http://localhost:8000/v1."}
    )
    api_key_env: str = field(
        default="OPENAI_API_KEY", metadata={"help": "Environment variable with the API key for --base_url."}
    )
    temperature: float = field(
        default=1.0, metadata={"help": "Sampling temperature. 0 takes the most probable token at each step."}
    )
    top_p: float = field(
        default=1.0, metadata={"help": "Sample only from the most probable tokens whose probabilities add up to this."}
    )
    max_new_tokens: int = field(default=256, metadata={"help": "Maximum number of tokens per response."})
    system_prompt: str | None = field(default=None, metadata={"help": "System message for prompts that have none."})
    seed: int = field(default=0, metadata={"help": "Random seed."})
    batch_size: int = field(default=16, metadata={"help": "Number of responses that Transformers samples at once."})
    dtype: str = field(
        default="auto",
        metadata={"help": "Precision. 'auto' is bfloat16 if the hardware supports it, and float32 otherwise."},
    )
    concurrency: int = field(default=8, metadata={"help": "Maximum number of concurrent requests to --base_url."})


def generate(argv: list[str]) -> None:
    """Sample responses to prompts and write the candidates to a folder."""
    (arguments,) = parse("generate", (GenerateArguments,), argv)
    folder = OutputFolder(arguments.output_dir)
    with users_mistakes(), folder.locked():
        folder.check(CANDIDATES, arguments.inputs)
        if not arguments.model:
            raise ValueError("`--model` is required: the model to sample from.")
        options = SamplingOptions(
            *(getattr(arguments, name) for name in ("temperature", "top_p", "max_new_tokens", "system_prompt", "seed"))
        )
        prompts = arguments.load()
        if arguments.prompt_column != "prompt":
            if arguments.prompt_column not in prompts.column_names:
                raise ValueError(
                    f"`--prompt_column {arguments.prompt_column}`: there is no such column. Found: {prompts.column_names}."
                )
            prompts = prompts.rename_column(arguments.prompt_column, "prompt")
        how = ("backend", "base_url", "api_key_env", "batch_size", "dtype", "concurrency")
        candidates, counts = sample_candidates(
            prompts,
            arguments.model,
            arguments.n,
            options,
            folder.path / LOG,
            **{name: getattr(arguments, name) for name in how},
        )
        with folder.replacing(CANDIDATES) as stage:
            note = write_pairs(candidates, stage, "candidates")
            written = ", ".join(path.name for path in stage.iterdir())
    print(counts, *counts.warnings(), *([note] if note else []), sep="\n")
    print(f"Written to {folder.path}: {written}.")
