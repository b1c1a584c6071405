import numpy as np
import pytest

import errors
from media import encoders


def images(count, height=64, width=64, seed=0):
  random = np.random.default_rng(seed)
  return random.integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def test_the_random_encoder_needs_no_weights_and_never_changes():
  encoder = encoders.make_encoder("random")
  gray = np.full((1, 64, 64, 3), 100, np.uint8)
  vector = encoder.encode(gray)
  assert vector.shape == (1, encoder.size) == (1, 128)
  assert vector.dtype == np.float32
  # By hand: 64 pixels of 100 in each cell and channel, and no edges.
  weights = np.random.RandomState(64)
  table = weights.randint(-8, 9, (320, 128)).astype(np.float64)
  table -= np.rint(table.mean(axis=0))
  bias = weights.randint(-200_000, 200_001, 128)
  colors = table.reshape(64, 5, 128)[:, :3].sum(axis=(0, 1))
  expected = np.maximum(colors * 6400 + bias, 0) / 500_000
  np.testing.assert_array_equal(vector[0], expected.astype(np.float32))


def test_the_random_encoder_does_not_depend_on_the_batch():
  encoder = encoders.make_encoder("random")
  many = images(70)
  together = encoder.encode(many)
  for number in (0, 31, 32, 69):
    alone = encoder.encode(many[number : number + 1])
    np.testing.assert_array_equal(alone[0], together[number])
  assert encoder.encode(many[:0]).shape == (0, 128)


def test_the_random_encoder_sees_colors_shapes_and_positions():
  pictures = np.zeros((6, 64, 64, 3), np.uint8)
  pictures[1] = (255, 0, 0)
  pictures[2] = (0, 255, 0)
  pictures[3, 8:24, 8:24] = 255  # a square
  pictures[4, 32:48, 32:48] = 255  # elsewhere
  pictures[5, 8:12, 8:72] = 255  # as many pixels in a bar
  vectors = encoders.make_encoder("random").encode(pictures)
  for a in range(6):
    for b in range(a):
      assert np.abs(vectors[a] - vectors[b]).max() > 0.1, (a, b)


def test_an_encoder_is_made_again_from_its_settings():
  encoder = encoders.make_encoder("random")
  again = encoders.make_encoder(**encoder.settings())
  np.testing.assert_array_equal(
    encoder.encode(images(3)), again.encode(images(3))
  )


@pytest.mark.parametrize(
  "wrong",
  [images(1).astype(np.float32), images(1, 32, 32), images(1)[0]],
  ids=["dtype", "size", "rank"],
)
def test_wrong_images_are_refused(wrong):
  with pytest.raises(ValueError, match="Expected uint8 images of"):
    encoders.make_encoder("random").encode(wrong)


MODULE = """
import numpy as np

def means(images):
  return images.mean(axis=(1, 2))

def squeezed(images):
  return images.reshape(len(images), -1)[:, :2] / 255
squeezed.image_size = (8, 16)
squeezed.fit = "stretch"

def one_vector(images):
  return np.zeros(5)

def not_a_number(images):
  return np.log(images.min(axis=(1, 2)).astype(float) - 1)

def wider(images):
  return np.zeros((len(images), len(images)))

def texts(images):
  return [["a"] for _ in images]

def bad_fit(images):
  return means(images)
bad_fit.fit = "crush"

def bad_size(images):
  return means(images)
bad_size.image_size = 224
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
  """The name of a module that lies in the working directory."""
  monkeypatch.chdir(tmp_path)
  name = f"encoder_of_{tmp_path.name}"
  (tmp_path / f"{name}.py").write_text(MODULE)
  (tmp_path / f"needs_{name}.py").write_text("import no_such_library\n")
  return name


def test_a_function_of_your_own(module):
  encoder = encoders.make_encoder(f"{module}:means")
  assert (encoder.image_size, encoder.fit) == ((224, 224), "crop")
  pictures = images(3, 224, 224)
  vectors = encoder.encode(pictures)
  assert vectors.dtype == np.float32
  np.testing.assert_allclose(vectors, pictures.mean(axis=(1, 2)), rtol=1e-6)


def test_a_function_says_which_images_it_takes(module):
  encoder = encoders.make_encoder(f"{module}:squeezed")
  assert (encoder.image_size, encoder.fit) == ((8, 16), "stretch")
  assert encoder.encode(images(40, 8, 16)).shape == (40, 2)
  assert encoder.settings()["encoder"] == f"{module}:squeezed"


@pytest.mark.parametrize(
  ("function", "message"),
  [
    ("one_vector", "for 1 images, received float64 of shape (5,)"),
    ("texts", "received <U1 of shape (1, 1)"),
    ("bad_fit", "received 'crush'"),
    ("bad_size", "received 224"),
    ("meens", "found none; perhaps means is meant"),
  ],
)
def test_a_wrong_function_is_refused_at_once(module, function, message):
  with pytest.raises(errors.UserError) as caught:
    encoders.make_encoder(f"{module}:{function}")
  assert message in str(caught.value)


def test_what_a_function_returns_is_checked_each_time(module):
  wider = encoders.make_encoder(f"{module}:wider")
  assert wider.encode(images(1, 224, 224)).shape == (1, 1)
  with pytest.raises(
    errors.UserError, match=r"Expected 1 numbers .*received 2"
  ):
    wider.encode(images(2, 224, 224))


def test_numbers_that_are_not_finite_are_an_error_of_the_video(module):
  encoder = encoders.make_encoder(f"{module}:means")
  encoder.encode_batch = lambda batch: np.full((len(batch), 3), np.inf)
  with pytest.raises(encoders.BadFeaturesError, match="not finite"):
    encoder.encode(images(2, 224, 224))


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("", "received ''"),
    ("rando", "perhaps random is meant"),
    ("kera:ResNet50", "kera.py; perhaps keras is meant"),
    ("a b:c", "received the module 'a b'"),
    ("random:", "received 'random:'"),
  ],
)
def test_unknown_names(name, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(errors.UserError) as caught:
    encoders.make_encoder(name)
  assert message in str(caught.value)


def test_a_module_that_needs_a_missing_library(module):
  with pytest.raises(errors.UserError, match="imports no_such_library"):
    encoders.make_encoder(f"needs_{module}:f")


def test_files_of_weights_are_checked(module, tmp_path):
  with pytest.raises(errors.UserError, match="Expected a file"):
    encoders.make_encoder("random", "absent.h5")
  (tmp_path / "weights.h5").write_bytes(b"")
  for name in ("random", f"{module}:means"):
    with pytest.raises(errors.UserError, match="Expected no --encoder_weights"):
      encoders.make_encoder(name, str(tmp_path / "weights.h5"))
