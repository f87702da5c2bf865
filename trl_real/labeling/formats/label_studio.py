"""
Label Studio: a labeling interface, its tasks, and its JSON export.

The export does not contain the labeling interface. Results are recognized by their type, `choices` or `pairwise`, because a project may give
its controls any name.
"""

import json
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

from ...core.columns import kind
from .entries import LABELS, Entry, decision, plain_task


CONFIG = """\
<View>
  <Style>.htx-text { white-space: pre-wrap; }</Style>
  <Header value="Prompt"/>
  <Text name="prompt" value="$prompt"/>
  <View style="display: flex; gap: 2em">
    <View style="flex: 1 1 0; min-width: 0">
      <Header value="Response a"/>
      <Text name="response_a" value="$response_a"/>
    </View>
    <View style="flex: 1 1 0; min-width: 0">
      <Header value="Response b"/>
      <Text name="response_b" value="$response_b"/>
    </View>
  </View>
  <Header value="Which response is better? To skip the pair, press Skip."/>
  <Choices name="preference" toName="prompt" choice="single-radio" showInline="true" required="true">
    <Choice value="a" hotkey="1"/>
    <Choice value="tie" hotkey="0"/>
    <Choice value="b" hotkey="2"/>
  </Choices>
</View>
"""

# The left and the right response in the data of a task: of our tasks, and of the templates of Label Studio.
SIDES = (("response_a", "response_b"), ("answer1", "answer2"), ("text1", "text2"))
SELECTED = {"left": "a", "right": "b"}
MINIMAL = "this is the format JSON_MIN or CSV of Label Studio, which leaves out skipped tasks. Export as JSON."


def write(tasks: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Tasks as a JSON file to import."""
    before = "[\n"
    for task in tasks:
        yield before + json.dumps({"data": plain_task(task)._asdict()}, ensure_ascii=False)
        before = ",\n"
    yield "\n]\n" if before == ",\n" else "[]\n"


def fits(value: Mapping[str, Any]) -> bool:
    """Whether a record is a task of Label Studio, or a row of an export without all answers."""
    return "annotations" in value or isinstance(value.get("data"), Mapping) or is_minimal(value)


def is_minimal(names: Container[str]) -> bool:
    """Whether an export with these columns leaves out skipped tasks."""
    return "annotation_id" in names and "lead_time" in names


def read(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The decisions in a JSON export: one per annotation."""
    for where, task in entries:
        if is_minimal(task):
            raise ValueError(f"Label {where}: {MINIMAL}")
        data, annotations = task.get("data"), task.get("annotations")
        if not isinstance(data, Mapping) or not isinstance(annotations, list):
            raise ValueError(
                f"Label {where}: expected a task with `data` and a list of `annotations`, found {kind(task)}. Export as JSON."
            )
        for n, annotation in enumerate(annotations, 1):
            yield Entry(f"{where}, annotation {n}", _read_annotation(annotation, data, f"{where}, annotation {n}"))


def _read_annotation(annotation: Any, data: Mapping[str, Any], where: str) -> dict[str, Any]:
    results = annotation.get("result") if isinstance(annotation, Mapping) else None
    if not isinstance(results, list):
        raise ValueError(f"Label {where}: expected an annotation with a list `result`, found {kind(annotation)}.")
    names = next((names for names in SIDES if set(names) <= set(data)), None)
    label = None if annotation.get("was_cancelled") else _read_results(results, names, where)
    about = data if names is None else {**data, "response_a": data[names[0]], "response_b": data[names[1]]}
    time = annotation.get("updated_at") or annotation.get("created_at")
    return decision(data.get("pair_id"), label, _annotator(annotation), about, time=time, seconds=_seconds(annotation))


def _read_results(results: list[Any], names: tuple[str, str] | None, where: str) -> str | None:
    """The label that the results of an annotation choose; `None` if they choose nothing."""
    chosen: list[Any] = []
    for result in results:
        of_kind = result.get("type") if isinstance(result, Mapping) else None
        value = result.get("value") if of_kind in ("choices", "pairwise") else None
        if not isinstance(value, Mapping):
            continue
        if of_kind == "choices":
            choices = value.get("choices") or []
            chosen += choices if isinstance(choices, list) else [choices]
        elif value.get("selected") is not None:
            chosen.append(_side(value["selected"], str(result.get("to_name")), names, where))
    labels = {choice.lower() for choice in chosen if isinstance(choice, str) and choice.lower() in LABELS}
    if len(labels) > 1:
        raise ValueError(f"Label {where}: chooses {sorted(labels)}. Correct it in Label Studio and export again.")
    if chosen and not labels:
        raise ValueError(
            f"Label {where}: chooses {chosen!r:.60}, but the choices must be 'a', 'b' and 'tie', as in the labeling interface that "
            "`to_label_tasks` writes."
        )
    return labels.pop() if labels else None


def _side(selected: Any, to_name: str, names: tuple[str, str] | None, where: str) -> str:
    """The side that a `Pairwise` control selects. The first response in its `toName` is on the left."""
    if not isinstance(selected, str) or selected not in SELECTED:
        raise ValueError(f"Label {where}: a pairwise result selects 'left' or 'right', found {kind(selected)}.")
    if names is None:
        raise ValueError(
            f"Label {where}: it is unknown which response was on the left. Import tasks with `response_a` and `response_b`, as "
            "`to_label_tasks` writes them."
        )
    # Label Studio repeats the name of the control in `to_name`. Other tools that write its format list the responses.
    turned = to_name.replace(" ", "").split(",") == [names[1], names[0]]
    return SELECTED[selected] if not turned else {"left": "b", "right": "a"}[selected]


def _annotator(annotation: Mapping[str, Any]) -> str:
    """The email address or the id of the annotator. Without one, each annotation counts as that of another person."""
    user = annotation.get("completed_by")
    if isinstance(user, Mapping):
        user = user.get("email") or user.get("id")
    return f"annotation {annotation.get('id')}" if user is None else str(user)


def _seconds(annotation: Mapping[str, Any]) -> float | None:
    seconds = annotation.get("lead_time")
    return float(seconds) if isinstance(seconds, int | float) and seconds >= 0 else None
