import inspect
import random

import keras
import numpy as np
import pytest

import errors
from media import encoders, keras_encoder


@pytest.fixture(scope="module")
def network():
  """MobileNet with random weights, under which numbers do not vanish."""
  # Not keras.utils.set_random_seed, which also sets TensorFlow's.
  random.seed(0)
  built = keras.applications.MobileNet(
    weights=None, include_top=False, pooling="avg", input_shape=(224, 224, 3)
  )
  for layer in built.layers:
    if "conv" in layer.name and layer.weights:
      scale = 60 if "dw" in layer.name else 2
      layer.set_weights([value * scale for value in layer.get_weights()])
  return built


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
  path = tmp_path_factory.mktemp("keras") / "mobile.weights.h5"
  network.save_weights(path)
  return str(path)


def test_a_network_with_weights_of_a_file(network, weights):
  encoder = encoders.make_encoder("keras:MobileNet", weights)
  assert (encoder.size, encoder.image_size) == (1024, (224, 224))
  random = np.random.default_rng(0)
  images = random.integers(0, 256, (2, 224, 224, 3)).astype(np.uint8)
  # MobileNet takes numbers from -1 to 1.
  expected = network.predict_on_batch(images / np.float32(127.5) - 1)
  assert np.abs(expected).max() > 0.1
  np.testing.assert_allclose(encoder.encode(images), expected, atol=1e-5)
  again = encoders.make_encoder(**encoder.settings())
  np.testing.assert_allclose(again.encode(images), expected, atol=1e-5)


def test_weights_that_lack_a_layer_are_refused(network, tmp_path):
  other = keras.Sequential([keras.layers.Dense(3)])
  other.build((None, 2))
  other.save_weights(tmp_path / "other.weights.h5")
  (tmp_path / "text.h5").write_text("no weights")
  for name in ("other.weights.h5", "text.h5"):
    with pytest.raises(errors.UserError) as caught:
      encoders.make_encoder("keras:MobileNet", str(tmp_path / name))
    assert f"received --encoder_weights={tmp_path / name} (" in str(
      caught.value
    )


def test_weights_that_keras_only_warns_of(network, weights, monkeypatch):
  def loads_all_but_one(self, path):
    for variable, value in zip(
      self.weights[:-1], network.weights[:-1], strict=True
    ):
      variable.assign(value)

  monkeypatch.setattr(keras.Model, "load_weights", loads_all_but_one)
  with pytest.raises(errors.UserError, match="is not in it"):
    encoders.make_encoder("keras:MobileNet", weights)


def test_without_a_network_the_message_says_what_to_fetch(monkeypatch):
  def fails(name, origin, **kwargs):
    raise Exception(f"URL fetch failure on {origin}: None -- no route")

  monkeypatch.setattr(
    inspect.getmodule(keras.applications.MobileNet).file_utils,
    "get_file",
    fails,
  )
  with pytest.raises(errors.UserError) as caught:
    encoders.make_encoder("keras:MobileNet")
  message = str(caught.value)
  assert "https://" in message
  assert "no_top.h5" in message
  assert "--encoder_weights=FILE" in message
  assert len(message.splitlines()) == 1


def test_unknown_networks():
  with pytest.raises(errors.UserError, match="perhaps ResNet50 is meant"):
    encoders.make_encoder("keras:Resnet50")


def test_every_network_has_its_preprocessing():
  networks = keras_encoder.networks()
  assert len(networks) > 30
  for build in networks.values():
    assert callable(keras_encoder.preprocessing(build))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["InceptionV3", "EfficientNetB1", "Xception"])
def test_image_sizes_are_those_of_keras(name):
  whole = getattr(keras.applications, name)(weights=None)
  side = keras_encoder.IMAGE_SIZES[name]
  assert whole.input_shape == (None, side, side, 3)
