import pytest

from millet.engine.sampling import Sampling
from millet.errors import BadRequest


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", -0.5),
        ("top_k", -1),
        ("top_k", 2.5),
        ("n", 0),
        ("max_tokens", 0),
        ("max_tokens", True),
        ("repetition_penalty", 0),
        ("presence_penalty", float("inf")),
        ("seed", 2**65),
        ("logit_bias", {3: 101}),
        ("logit_bias", {-3: 1}),
        ("stop", ("",)),
        ("logprobs", 3),
        ("top_logprobs", 21),
        ("top_logprobs", 2),  # without logprobs
    ],
)
def test_an_impossible_value_is_one_line_that_names_it(field, value):
    with pytest.raises(BadRequest) as error:
        Sampling(**{field: value})
    assert field in str(error.value)
    assert "\n" not in str(error.value)


def test_one_stop_string_may_stand_alone():
    assert Sampling(stop="END").stop == ("END",)
    assert Sampling(stop=["a", "b"]).stop == ("a", "b")
