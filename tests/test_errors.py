"""What is said of a mistake: the nearest word, and options as the command calls them."""

import pytest

from zoo.errors import as_arguments, did_you_mean, option, options_called


@pytest.mark.parametrize(
    ("word", "settings", "end"),
    [
        ("ft", {}, "; did you mean 'fit'?"),
        ("fit", {"most": 2, "written": "{}.yaml".format}, "; did you mean fit.yaml or fits.yaml?"),
        ("zzz", {}, ""),
        ("zzz", {"otherwise": "there are two"}, "; there are two"),
        ("ft", {"otherwise": "there are two"}, "; did you mean 'fit'?"),
    ],
)
def test_the_nearest_word_ends_a_message(word, settings, end):
    assert did_you_mean(word, iter(["fit", "fits", "report"]), **settings) == end


def test_a_command_has_its_own_names_of_options():
    assert option("model.backbone") == "--model.backbone"
    assert option("trust", "my_basis") == "--trust my_basis"
    with pytest.raises(KeyError), options_called({"model.backbone": "backbone"}):
        assert option("model.backbone") == "--backbone" and option("data.task") == "--data.task"
        raise KeyError
    assert option("model.backbone") == "--model.backbone"


def test_a_function_has_arguments():
    with pytest.raises(KeyError), as_arguments(), options_called({"out": "folder"}):
        assert (option("force"), option("out")) == ("force", "folder")
        assert option("trust", "my_basis") == "trust='my_basis'"
        raise KeyError
    assert option("force") == "--force"
