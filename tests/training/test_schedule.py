"""The learning rate's schedule runs to the last step, so that there has to be one."""

import pytest
from conftest import configs, refused


@pytest.mark.parametrize("ends", [["--trainer.max_time=00:00:00:03"], ["--trainer.max_epochs=-1"]])
def test_a_fit_that_no_number_of_steps_ends_is_refused(ends, place, small, capsys):
    argv = ["fit", *configs("dct_half.yaml"), *small, "--trainer.max_steps=-1", *ends]
    refused(capsys, argv, "schedule", "--trainer.max_steps", "--trainer.max_epochs")
    assert not (place / "runs").exists()
