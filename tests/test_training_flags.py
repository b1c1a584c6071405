"""Tests of training_flags: what the flags of train.py come to."""

import pytest
from absl import flags
from absl.testing import flagsaver

import errors
import train
import training_flags


@pytest.mark.parametrize(
  ("typed", "batch_size"),
  [
    ([], 16),
    (["--train_data_pattern=train*.tfrecord"], 128),
    (["--batch_size=64"], 64),
  ],
)
def test_batches_are_small_only_on_the_sample_data(typed, batch_size):
  with flagsaver.flagsaver():  # removes new flags at the end
    train.define_flags()
    flags.FLAGS(["train.py", *typed])
    settings = training_flags.settings_from_flags("StreamLstmModel")
  assert settings.batch_size == batch_size
  assert settings.base_learning_rate == 0.001
  assert settings.num_epochs == 5


@pytest.mark.parametrize("given", ["3", "0,3", "5,4", "a,b", "1,2,3", "-1,2"])
def test_invalid_steps_to_profile(given):
  with pytest.raises(errors.UserError, match="--profile_steps") as error:
    training_flags.profile_steps_from_flag(given.split(","))
  assert repr(given) in str(error.value)
