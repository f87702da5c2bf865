"""Check the values of options."""

from numbers import Integral, Real


def check_count(name: str, value: object) -> None:
    """Raise unless `value`, the value of the option `name`, is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}.")


def check_seed(name: str, seed: object) -> None:
    """Raise unless `seed`, the value of the option `name`, is a whole number that NumPy accepts as a seed."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"`{name}` must be a whole number of at least 0, got {seed!r}.")


def check_number(name: str, value: object, low: float, high: float) -> None:
    """Raise unless `value`, the value of the option `name`, is a number from `low` to `high`, or `None`."""
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) <= high
    ):
        raise ValueError(f"`{name}` must be a number from {low} to {high}, got {value!r}.")
