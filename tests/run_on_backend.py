"""Run by test_backends.py on another backend, without TensorFlow.

Usage: python run_on_backend.py <folder>, with KERAS_BACKEND set. For each
<model>.npz in the folder's cases/ it writes to results/ a <model>.npz with what
the model returns, or a <model>.txt with the traceback.
"""

import importlib.util
import json
import pathlib
import sys
import traceback

import keras
import numpy as np

import losses
import models


def loss_classes() -> list:
  """The losses of losses.py; tests define more of them."""
  return [
    value
    for value in vars(losses).values()
    if isinstance(value, type)
    and issubclass(value, losses.BaseLoss)
    and value is not losses.BaseLoss
  ]


def training_loss(model, batch, labels):
  """The loss of a batch as in training, and the predictions."""
  outputs = model(batch, training=True)
  predictions = outputs["predictions"]
  loss = sum(
    losses.CrossEntropyLoss().calculate_loss(of_one, labels)
    for of_one in (predictions, *outputs.get("auxiliary_predictions", []))
  )
  loss = loss + models.regularization_loss(model, outputs)
  return sum(outputs.get("auxiliary_losses", {}).values(), loss), predictions


def predict(model, batch):
  """The predictions of a batch."""

  def predictions(batch):
    return model(batch, training=False)["predictions"]

  if keras.backend.backend() == "jax":
    import jax

    # Compiling it takes half as long as running it step by step.
    predictions = jax.jit(predictions)
  return predictions(batch)


def train(model, batch, labels):
  """The training_loss, the predictions and the gradient for each weight."""
  weights = model.trainable_variables
  values = [weight.value for weight in weights]
  if keras.backend.backend() == "torch":
    import torch

    loss, predictions = training_loss(model, batch, labels)
    return loss, predictions, torch.autograd.grad(loss, values)
  import jax

  def loss_of(values, batch):
    with keras.StatelessScope(zip(weights, values, strict=True)):
      return training_loss(model, batch, labels)

  loss_and_gradients = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
  (loss, predictions), gradients = loss_and_gradients(values, batch)
  return loss, predictions, gradients


def run(case) -> dict:
  """Returns {name: tensor} for the content of a case's file.

  That is predictions_<kind> and loss_<class> for each kind of input and class
  of losses.py, and training_<name> for one call as in training.
  """
  model_flags = json.loads(str(case["model_flags"]))
  weights = [case[name] for name in case.files if name.startswith("weight_")]
  results = {}
  for kind in json.loads(str(case["kinds"])):
    model = models.build_model(model_flags, quantized=kind == "bytes")
    model.set_weights(weights)
    batch = {name: case[f"{kind}_{name}"] for name in model.input}
    results[f"predictions_{kind}"] = predict(model, batch)
  # Of TensorFlow's predictions: near 0 and 1, a loss magnifies rounding.
  for loss_class in loss_classes():
    results[f"loss_{loss_class.__name__}"] = loss_class().calculate_loss(
      case["predictions"], case["labels"]
    )
  # The last model and batch, whether bytes or floats.
  loss, predictions, gradients = train(model, batch, case["labels"])
  results["training_loss"] = loss
  results["training_predictions"] = predictions
  for weight, gradient in zip(
    model.trainable_variables, gradients, strict=True
  ):
    # A slash would make folders of it.
    results[f"training_{weight.path.replace('/', '.')}"] = gradient
  return results


def main(folder) -> None:
  """See the file."""
  assert importlib.util.find_spec("tensorflow") is None
  for path in sorted((folder / "cases").glob("*.npz")):
    result = folder / "results" / path.name
    try:
      with np.load(path) as case:
        results = run(case)
      np.savez(
        result,
        **{
          name: keras.ops.convert_to_numpy(value)
          for name, value in results.items()
        },
      )
    except Exception:
      result.with_suffix(".txt").write_text(traceback.format_exc())


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
