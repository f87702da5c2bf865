"""Remove a prompt that the responses repeat, and add its system message."""

from typing import Any

from .messages import ASSISTANT, HUMAN, as_message, response_text


# Columns that hold the system message of a prompt.
SYSTEM = {"system", "system_prompt"}
# Roles that speak before a response.
ASKING = ("system", "developer", "user")


def take_off_prompt(prompt: Any, responses: list[Any]) -> tuple[Any, list[Any]] | None:
    """
    Remove the prompt from responses that repeat it. Returns `None` if they do not.

    Messages repeat the prompt if it is their first turns, with or without its system message, or the last of the turns that all
    responses begin with. Text repeats it if all responses begin with it, up to white space. A prompt of a single word is not
    removed, because an answer may begin with the same word.
    """
    given = [response for response in responses if response is not None]
    if not prompt or not given:
        return None
    if isinstance(prompt, str) and all(isinstance(response, str) for response in given):
        return _take_off_text(prompt, responses, given)
    if not any(isinstance(response, list) and response and response[0].get("role") in ASKING for response in given):
        return None
    return _take_off_turns(as_message(prompt, "user"), responses, given)


def _take_off_text(prompt: str, responses: list[Any], given: list[str]) -> tuple[str, list[Any]] | None:
    head = prompt.strip()
    if all(response.startswith(HUMAN) for response in given) and not prompt.startswith(HUMAN):
        head = f"{HUMAN.strip()} {head}{ASSISTANT}"  # a dialogue, in which the prompt is the turn of the human
    elif len(head.split()) < 2:
        return None
    rests = [_after(response, prompt, head) for response in given]
    if any(rest is None for rest in rests) or not any(rest and rest.strip() for rest in rests):
        return None
    if head != prompt.strip():
        prompt = f"\n\n{head}"
    left = iter(rests)
    responses = [response if response is None else next(left) for response in responses]
    if all(rest and rest.startswith(ASSISTANT) for rest in rests):
        prompt += ASSISTANT
        responses = [response and response.removeprefix(ASSISTANT) for response in responses]
    return prompt, responses


def _after(response: str, prompt: str, head: str) -> str | None:
    """The rest of a response after the prompt; `None` if it does not begin with the prompt, or continues within a word."""
    rest = response.removeprefix(prompt)
    if rest == response:
        response = response.lstrip()
        if not response.startswith(head):
            return None
        rest = response.removeprefix(head)
    within_a_word = bool(rest) and rest[0].isalnum() and prompt[-1].isalnum()
    return None if within_a_word else rest


def _take_off_turns(prompt: list[Any], responses: list[Any], given: list[Any]) -> tuple[Any, list[Any]] | None:
    asked = [message for message in prompt if message.get("role") != "system"] or prompt
    turns = [_turn(message) for message in asked]
    talks = [[_turn(message) for message in response] if isinstance(response, list) else [] for response in given]
    shared = min(map(len, talks)) - 1  # a response keeps at least its last message
    shared = next((i for i in range(shared) if any(talk[i] != talks[0][i] for talk in talks)), max(shared, 0))
    ends = [end for end in range(len(turns), shared + 1) if talks[0][end - len(turns) : end] == turns]
    if ends:
        whole, end = next(response for response in responses if response is not None), ends[-1]
        systems = (
            []
            if whole[0].get("role") == "system"
            else [m for m in prompt if m.get("role") == "system" and m not in asked]
        )
        return systems + whole[:end], [response if response is None else response[end:] for response in responses]
    # Only some of the responses repeat it.
    left = [_without(response, turns) for response in responses]
    return (prompt, left) if left != responses else None


def _without(response: Any, turns: list[tuple[Any, str]]) -> Any:
    if not isinstance(response, list):
        return response
    start = next((i for i, message in enumerate(response) if message.get("role") != "system"), 0)
    for first in {0, start}:
        if [_turn(message) for message in response[first : first + len(turns)]] == turns and len(
            response
        ) > first + len(turns):
            return response[first + len(turns) :]
    return response


def _turn(message: Any) -> tuple[Any, str]:
    return message.get("role"), response_text([message]).strip()


def with_system(prompt: Any, system: Any) -> Any:
    """Add a system message, unless there is one."""
    if not isinstance(prompt, list) or not isinstance(system, str) or not system.strip():
        return prompt
    if any(message.get("role") in ("system", "developer") for message in prompt):
        return prompt
    return [{"role": "system", "content": system}, *prompt]
