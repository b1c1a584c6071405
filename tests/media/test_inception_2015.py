"""The graph of 2015 is not here: one with its names and shapes takes its place.

It also has a producer's version and an operation of that time, which TensorFlow
still runs but does not build.
"""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

import errors
from media import encoders, pca

EPSILON = 1e-3


def weights(channels):
  random = np.random.default_rng(0)
  shapes = {"kernel": (3, channels), "mean": channels, "variance": channels}
  shapes |= {"beta": channels, "gamma": channels}
  found = {
    name: random.random(shape).astype(np.float32)
    for name, shape in shapes.items()
  }
  found["kernel"] -= 0.5
  return found


def write_graph(path, channels=2048):
  """Writes a graph with the names and shapes of 2015."""
  values = weights(channels)
  with tf.Graph().as_default() as graph:
    v1 = tf.compat.v1
    contents = tf.constant("", name="DecodeJpeg/contents")
    jpeg = tf.raw_ops.DecodeJpeg(
      contents=contents, channels=3, name="DecodeJpeg"
    )
    floats = tf.cast(jpeg, tf.float32, name="Cast")
    batch = tf.expand_dims(floats, 0, name="ExpandDims")
    sized = v1.image.resize_bilinear(batch, [299, 299], name="ResizeBilinear")
    scaled = tf.multiply(
      tf.subtract(sized, 128.0, name="Sub"), 1 / 128, name="Mul"
    )
    cells = tf.nn.avg_pool2d(scaled, 13, 13, "VALID")
    mixed = tf.nn.conv2d(cells, values["kernel"][None, None], 1, "VALID")
    scales = [values[n] for n in ("mean", "variance", "beta", "gamma")]
    normal = tf.raw_ops.IdentityN(input=[mixed, *scales], name="batchnorm")
    pooled = tf.nn.avg_pool2d(
      tf.nn.relu(normal[0]), 23, 1, "VALID", name="pool_3"
    )
    tf.reshape(pooled, [1, channels], name="pool_3/_reshape")
  graph_def = graph.as_graph_def()
  for node in graph_def.node:
    if node.name == "batchnorm":
      node.op = "BatchNormWithGlobalNormalization"
      node.attr.clear()
      node.attr["T"].type = tf.float32.as_datatype_enum
      node.attr["variance_epsilon"].f = EPSILON
      node.attr["scale_after_normalization"].b = True
  graph_def.versions.producer = 8
  path.write_bytes(graph_def.SerializeToString())
  return str(path)


def features(images):
  """What this graph computes, in NumPy."""
  of = weights(2048)
  scaled = (images.astype(np.float64) - 128) / 128
  cells = scaled.reshape(-1, 23, 13, 23, 13, 3).mean(axis=(2, 4))
  normal = (cells @ of["kernel"] - of["mean"]) / np.sqrt(
    of["variance"] + EPSILON
  )
  return np.maximum(normal * of["gamma"] + of["beta"], 0).mean(axis=(1, 2))


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
  folder = tmp_path_factory.mktemp("inception")
  return write_graph(folder / "classify_image_graph_def.pb")


@pytest.fixture(scope="module")
def images():
  random = np.random.default_rng(1)
  return random.integers(0, 256, (3, 299, 299, 3)).astype(np.uint8)


def test_features_of_many_images_at_once(graph, images):
  encoder = encoders.make_encoder("inception_2015", graph)
  assert (encoder.image_size, encoder.fit) == ((299, 299), "stretch")
  vectors = encoder.encode(images)
  assert (vectors.shape, vectors.dtype) == ((3, 2048), np.float32)
  np.testing.assert_allclose(vectors, features(images), rtol=1e-3, atol=1e-4)


def test_they_are_those_of_the_graph_fed_with_one_image(graph, images):
  vectors = encoders.make_encoder("inception_2015", graph).encode(images)
  graph_def = tf.compat.v1.GraphDef.FromString(pathlib.Path(graph).read_bytes())
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    tf.import_graph_def(graph_def, name="")
    for image, vector in zip(images, vectors, strict=True):
      alone = session.run("pool_3/_reshape:0", {"DecodeJpeg:0": image})
      np.testing.assert_allclose(vector, alone[0], rtol=1e-5)


def write_pca(folder):
  """YouTube-8M's PCA by its form: variances about those of these images."""
  folder.mkdir()
  random = np.random.default_rng(2)
  rows = random.normal(size=(1024, 2048)).astype(np.float32) / 45
  mean = random.random((2048, 1)).astype(np.float32)
  values = random.random((2048, 1)).astype(np.float32) * 2
  np.save(folder / "mean.npy", mean)
  np.save(folder / "eigenvecs.npy", rows)
  np.save(folder / "eigenvals.npy", values)
  return mean, rows, values


def test_youtube8ms_pca_makes_its_bytes(graph, images, tmp_path):
  mean, rows, values = write_pca(tmp_path / "pca")
  encoder = encoders.make_encoder("inception_2015", graph, tmp_path / "pca")
  assert (encoder.size, encoder.dtype) == (1024, "uint8")
  found = encoder.encode(images)
  assert (found.shape, found.dtype) == ((3, 1024), np.uint8)
  whitened = (features(images) - mean[:, 0]) @ rows.T.astype(np.float64)
  whitened /= np.sqrt(values[:1024, 0] + 1e-4)
  expected = np.round((np.clip(whitened, -2, 2) + 2) * 255 / 4)
  # Sums in another order may round a few numbers to the next byte.
  assert np.abs(found - expected).max() <= 1
  assert (found == expected).mean() > 0.99
  assert np.ptp(found) > 200
  again = encoders.make_encoder(**encoder.settings())
  np.testing.assert_array_equal(again.encode(images), found)


def test_youtube8ms_pca_is_refused_for_another_encoder(tmp_path):
  write_pca(tmp_path / "pca")
  with pytest.raises(errors.UserError) as caught:
    encoders.make_encoder("random", "", str(tmp_path / "pca"))
  assert "YouTube-8M's PCA of its numbers" in str(caught.value)
  assert "gives noise" in str(caught.value)


def test_a_fitted_pca_is_for_its_encoder(graph, tmp_path):
  fit = pca.Fit(128)
  random = encoders.make_encoder("random")
  pictures = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3))
  vectors = random.encode(pictures.astype(np.uint8))
  fit.add(vectors)
  fit.finish(5, "random").save(str(tmp_path / "pca"))
  projecting = encoders.make_encoder("random", "", str(tmp_path / "pca"))
  assert (projecting.size, projecting.dtype) == (5, "float32")
  found = projecting.encode(pictures.astype(np.uint8))
  covariance = np.cov(found.T)
  np.testing.assert_allclose(
    covariance, np.diag(np.diag(covariance)), atol=1e-4
  )
  assert (np.diff(np.diag(covariance)) < 0).all()
  again = encoders.make_encoder(**projecting.settings())
  np.testing.assert_array_equal(again.encode(pictures.astype(np.uint8)), found)
  with pytest.raises(errors.UserError, match="Expected --encoder=random with"):
    encoders.make_encoder("inception_2015", graph, str(tmp_path / "pca"))


def test_a_pca_of_another_size_is_refused(tmp_path):
  fit = pca.Fit(7)
  fit.add(np.random.default_rng(0).random((9, 7)))
  fit.finish(2, "random").save(str(tmp_path))
  with pytest.raises(errors.UserError, match="Expected a PCA of 128 numbers"):
    encoders.make_encoder("random", "", str(tmp_path))


def test_without_the_graph_the_message_says_what_to_fetch():
  with pytest.raises(errors.UserError) as caught:
    encoders.make_encoder("inception_2015")
  assert "classify_image_graph_def.pb of http" in str(caught.value)


def test_other_files_are_refused(tmp_path):
  (tmp_path / "text.pb").write_text("no graph")
  (tmp_path / "empty.pb").write_bytes(b"")
  write_graph(tmp_path / "narrow.pb", channels=3)
  for name in ("text.pb", "empty.pb", "narrow.pb"):
    with pytest.raises(errors.UserError) as caught:
      encoders.make_encoder("inception_2015", str(tmp_path / name))
    assert f"received --encoder_weights={tmp_path / name} (" in str(
      caught.value
    )
