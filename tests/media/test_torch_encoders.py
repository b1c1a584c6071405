"""Most of these tests need the libraries of requirements/clip.txt.

They are run in an environment of their own, in which there is no TensorFlow.
"""

import sys

import numpy as np
import pytest
from own_environment import run_slow_tests

import errors
from media import encoders


@pytest.mark.parametrize(
  ("name", "library"),
  [("clip:ViT-B-32:openai", "open_clip"), ("timm:resnet18", "timm")],
)
def test_without_the_library_its_install_line_is_shown(
  name, library, monkeypatch
):
  monkeypatch.setitem(sys.modules, library, None)
  with pytest.raises(errors.UserError) as caught:
    encoders.make_encoder(name)
  assert f"the library {library}" in str(caught.value)
  assert "pip install -r requirements/clip.txt" in str(caught.value)


@pytest.mark.slow
def test_the_others_in_an_environment_of_their_own():
  run_slow_tests("clip", __file__)


def pictures(count, height, width):
  random = np.random.default_rng(0)
  shape = (count, height, width, 3)
  return random.integers(0, 256, shape).astype(np.uint8)


def as_the_library_does(images, transform, network):
  """Each image through the library's own transform, and the network."""
  torch = pytest.importorskip("torch")
  image_module = pytest.importorskip("PIL.Image")
  batch = torch.stack(
    [transform(image_module.fromarray(image)) for image in images]
  )
  with torch.inference_mode():
    return network(batch).numpy()


@pytest.fixture
def timm_weights(tmp_path):
  """A file of weights for resnet18, with those of its classifier."""
  timm = pytest.importorskip("timm")
  torch = pytest.importorskip("torch")
  torch.manual_seed(5)
  network = timm.create_model("resnet18")
  torch.save(network.state_dict(), tmp_path / "weights.pth")
  return str(tmp_path / "weights.pth")


@pytest.mark.slow
def test_timm_is_fed_as_timm_says(timm_weights):
  timm = pytest.importorskip("timm")
  torch = pytest.importorskip("torch")
  encoder = encoders.make_encoder("timm:resnet18", timm_weights)
  assert (encoder.size, encoder.image_size) == (512, (235, 235))
  assert encoder.fit == "crop"
  network = timm.create_model("resnet18", num_classes=0)
  state = torch.load(timm_weights)
  network.load_state_dict({k: v for k, v in state.items() if k[:2] != "fc"})
  transform = timm.data.create_transform(
    **timm.data.resolve_model_data_config(network)
  )
  images = pictures(3, 235, 235)
  expected = as_the_library_does(images, transform, network.eval())
  assert np.abs(expected).max() > 0.1
  np.testing.assert_allclose(encoder.encode(images), expected, atol=1e-5)
  again = encoders.make_encoder(**encoder.settings())
  np.testing.assert_array_equal(again.encode(images), encoder.encode(images))


@pytest.mark.slow
def test_timm_refuses_a_file_of_another_network(tmp_path):
  timm = pytest.importorskip("timm")
  torch = pytest.importorskip("torch")
  other = timm.create_model("mobilenetv3_small_050")
  torch.save(other.state_dict(), tmp_path / "other.pth")
  (tmp_path / "text.pth").write_text("no weights")
  for name in ("other.pth", "text.pth"):
    with pytest.raises(errors.UserError, match="Expected weights of timm:resn"):
      encoders.make_encoder("timm:resnet18", str(tmp_path / name))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("timm:resnet81", "perhaps resnet18 is meant"),
    ("timm:resnet18.other", "resnet18.a1_in1k"),
    ("timm:test_vit4", "received 'test_vit4'"),
    ("timm:deepseek_vit_412m", "which adds borders"),
    ("clip:ViT-B32:openai", "perhaps ViT-B-32 is meant"),
    ("clip:ViT-B-32:opnai", "perhaps openai is meant"),
    ("clip:ViT-B-32", "use --encoder=clip:ViT-B-32 and --encoder_weights"),
  ],
)
def test_unknown_names(name, message):
  pytest.importorskip("open_clip")
  with pytest.raises(errors.UserError) as caught:
    encoders.make_encoder(name)
  assert message in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm:resnet18", "clip:ViT-B-32:openai"])
def test_without_a_network_the_message_says_what_to_fetch(
  name, tmp_path, monkeypatch, caplog
):
  constants = pytest.importorskip("huggingface_hub").constants
  pytest.importorskip("open_clip")
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
  with pytest.raises(errors.UserError) as caught:
    encoders.make_encoder(name)
  message = str(caught.value)
  assert "https://huggingface.co/timm/" in message
  assert "--encoder_weights=FILE" in message
  assert len(message.splitlines()) == 1
  assert not caplog.records


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "tag", "side", "fit"),
  [("ViT-S-32-alt", "", 224, "crop"), ("ViT-B-32", "openai", 224, "crop")],
)
def test_clip_is_fed_as_open_clip_says(name, tag, side, fit, tmp_path):
  open_clip = pytest.importorskip("open_clip")
  torch = pytest.importorskip("torch")
  torch.manual_seed(5)
  # OpenAI trained with another activation than the configuration of the name.
  model, _, transform = open_clip.create_model_and_transforms(
    name, force_quick_gelu=tag == "openai"
  )
  torch.save(model.state_dict(), tmp_path / "weights.pt")
  encoder = encoders.make_encoder(
    f"clip:{name}:{tag}".rstrip(":"), str(tmp_path / "weights.pt")
  )
  assert (encoder.image_size, encoder.fit) == ((side, side), fit)
  images = pictures(3, side, side)
  expected = as_the_library_does(images, transform, model.eval().encode_image)
  assert encoder.size == expected.shape[1]
  np.testing.assert_allclose(
    encoder.encode(images), expected, atol=1e-5 * np.abs(expected).max()
  )
