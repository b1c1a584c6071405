"""A model in one file: a .tgz of a checkpoint and what else predicts."""

import os
import tarfile

import tensorflow as tf

import errors
from engine.checkpoints import files_of_checkpoint
from engine.files import written_aside
from engine.model_flags import MODEL_FLAGS_FILE
from engine.train_dir import fact_files


def write_model_tgz(train_dir: str, checkpoint_path: str, tgz: str) -> None:
  """Packs a checkpoint and model_flags.json, which is enough to predict.

  Args:
    train_dir: folder of the run.
    checkpoint_path: of a checkpoint, without its file endings.
    tgz: path of the archive to write.
  """
  of_checkpoint = files_of_checkpoint(checkpoint_path)
  # The best checkpoint is in a folder of its own.
  members = {path: os.path.basename(path) for path in of_checkpoint}
  members |= {
    path: os.path.relpath(path, train_dir) for path in fact_files(train_dir)
  }
  with (
    written_aside(tgz) as aside,
    tf.io.gfile.GFile(aside, "wb") as file,
    tarfile.open(fileobj=file, mode="w:gz") as archive,
  ):
    for path, name in members.items():
      with tf.io.gfile.GFile(path, "rb") as member:
        info = tarfile.TarInfo(name)
        info.size = tf.io.gfile.stat(path).length
        archive.addfile(info, member)


def extract_model_tgz(tgz: str, folder: str) -> str:
  """Unpacks what write_model_tgz wrote.

  Args:
    tgz: path of the archive.
    folder: where to; made if it is missing.

  Returns:
    The checkpoint's path. model_flags.json is in the same folder.

  Raises:
    errors.UserError: the archive does not hold a model.
  """
  if tf.io.gfile.exists(os.path.join(folder, "checkpoint")):
    raise errors.UserError(
      "Expected a folder for an unpacked model, received the --train_dir of a"
      f" run, {folder}, whose files would be overwritten. Name another"
      " --untar_model_dir."
    )
  tf.io.gfile.makedirs(folder)
  try:
    with (
      tf.io.gfile.GFile(tgz, "rb") as file,
      tarfile.open(fileobj=file, mode="r:gz") as archive,
    ):
      names = archive.getnames()
      indexes = [name for name in names if name.endswith(".index")]
      if MODEL_FLAGS_FILE not in names or len(indexes) != 1:
        raise errors.UserError(
          f"Expected {MODEL_FLAGS_FILE} and one checkpoint in {tgz}, received"
          f" {', '.join(names) or 'nothing'}. Make the archive with"
          " inference.py --output_model_tgz."
        )
      archive.extractall(folder, filter="data")
      # Read to the end, because gzip checks its checksum there.
      while archive.fileobj.read(1 << 20):
        pass
  except (tarfile.TarError, EOFError, OSError) as error:
    if errors.is_fault_of_machine(error):
      raise
    raise errors.UserError(
      f"Expected a .tgz archive of a model, received {tgz}, which is not one"
      f" ({error}). Make it with inference.py --output_model_tgz."
    ) from error
  return os.path.join(folder, indexes[0].removesuffix(".index"))
