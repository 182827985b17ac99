import pytest

from engines.errors import UserError
from exporter.budget import Budget


@pytest.mark.parametrize(
    ("text", "total", "kept"),
    [
        ("64", 576, 64),
        ("1", 576, 1),
        ("576", 576, 576),
        ("+64", 576, 64),
        ("064", 576, 64),
        ("0.11", 576, 63),  # 63.36
        (".5", 576, 288),
        ("1.0", 576, 576),
        ("1.", 576, 576),
        ("11%", 576, 63),
        ("33.3%", 576, 192),  # 191.808
        ("100%", 144, 144),
        ("0.5", 5, 3),  # half goes up
        ("50%", 3, 2),
        ("0.15", 10, 2),  # exactly 1.5: no binary fraction below it
        ("0.01%", 576, 1),  # 0.06: never none
    ],
)
def test_counts_ratios_and_percentages(text, total, kept):
    assert Budget(text).count(total) == kept


def test_a_count_and_a_ratio_of_one_differ():
    assert (Budget("1").count(100), Budget("1.0").count(100), Budget("1%").count(100)) == (1, 100, 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a number"),
        ("many", "not a number"),
        ("64 ", "not a number"),
        ("64\n", "not a number"),
        ("6e1", "not a number"),
        ("1/2", "not a number"),
        ("nan", "not a number"),
        ("inf", "not a number"),
        ("%", "not a number"),
        (".", "not a number"),
        ("1" * 5000, "not a number"),
        ("0", "nothing would be kept"),
        ("0.0", "nothing would be kept"),
        ("0%", "nothing would be kept"),
        ("-3", "nothing would be kept"),
        ("577", "an image has 576 patches"),
        ("1.01", "more than there is"),
        ("101%", "more than there is"),
    ],
)
def test_what_is_no_budget_is_refused_in_one_line(text, says):
    with pytest.raises(UserError, match=says) as caught:
        Budget(text).count(576)
    assert str(caught.value).startswith("--keep ")
    assert "\n" not in str(caught.value).replace(text, "")
