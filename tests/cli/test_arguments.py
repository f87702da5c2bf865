import pytest

from trl_real.cli.arguments import ColumnArguments


def test_columns_and_votes_that_are_named():
    arguments = ColumnArguments(left_column="one", right_column="two", vote_column="who", votes='{"1": "left"}')
    assert arguments.named == {"left": "one", "right": "two", "vote": "who"}
    assert arguments.votes == {"1": "left"}
    assert ColumnArguments(votes={"0": "tie"}).votes == {"0": "tie"}  # from a recipe
    with pytest.raises(ValueError, match="`votes` must be JSON, got 'left'"):
        ColumnArguments(votes="left")
