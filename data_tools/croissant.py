"""croissant.json: a data set's files and features in the Croissant format.

Catalogs and tools that know nothing of this project read it. The card,
dataset.json, says the same to this project's programs.

Source: the Croissant format specification 1.1 (MLCommons).
"""

import datetime
import hashlib
import os
from collections.abc import Mapping

import quantization
from engine.dataset_card import VOCABULARY_FILE, DatasetCard
from engine.files import write_json

CROISSANT_FILE = "croissant.json"

# There is no registered type for TFRecord files; a page may stand for one.
_TFRECORD = "https://www.tensorflow.org/tutorials/load_data/tfrecord"
# Of what is recommended, what this program cannot know.
_NOT_STATED = "Not stated by those who made the data set."
_CHUNK_BYTES = 1 << 20

# The specification's context, with which readers know every document.
_CONTEXT = {
  "@language": "en",
  "@vocab": "https://schema.org/",
  "arrayShape": "cr:arrayShape",
  "citeAs": "cr:citeAs",
  "column": "cr:column",
  "conformsTo": "dct:conformsTo",
  "containedIn": "cr:containedIn",
  "cr": "http://mlcommons.org/croissant/",
  "data": {"@id": "cr:data", "@type": "@json"},
  "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
  "dct": "http://purl.org/dc/terms/",
  "description": {"@container": "@language"},
  "equivalentProperty": "cr:equivalentProperty",
  "examples": {"@id": "cr:examples", "@type": "@json"},
  "extract": "cr:extract",
  "field": "cr:field",
  "fileObject": "cr:fileObject",
  "fileProperty": "cr:fileProperty",
  "fileSet": "cr:fileSet",
  "format": "cr:format",
  "includes": "cr:includes",
  "isArray": "cr:isArray",
  "isLiveDataset": "cr:isLiveDataset",
  "jsonPath": "cr:jsonPath",
  "key": "cr:key",
  "md5": "cr:md5",
  "name": {"@container": "@language"},
  "parentField": "cr:parentField",
  "path": "cr:path",
  "rai": "http://mlcommons.org/croissant/RAI/",
  "recordSet": "cr:recordSet",
  "references": "cr:references",
  "regex": "cr:regex",
  "repeated": "cr:repeated",
  "replace": "cr:replace",
  "samplingRate": "cr:samplingRate",
  "sc": "https://schema.org/",
  "separator": "cr:separator",
  "source": "cr:source",
  "subField": "cr:subField",
  "transform": "cr:transform",
}
_DATA_TYPES = {
  "float32": "cr:Float32",
  "float16": "cr:Float16",
  "uint8": "cr:UInt8",
}


def sha256_of(path: str) -> str:
  """The SHA-256 of a file, in hexadecimal digits.

  Raises:
    OSError: it cannot be read.
  """
  digest = hashlib.sha256()
  with open(path, "rb", buffering=0) as file:
    while chunk := file.read(_CHUNK_BYTES):
      digest.update(chunk)
  return digest.hexdigest()


def write(folder: str, name: str, card: DatasetCard) -> None:
  """Writes croissant.json beside the files that it describes.

  Args:
    folder: with the records and the names of the classes, all written.
    name: of the data set.
    card: what the records hold.

  Raises:
    OSError: a file cannot be read or written.
  """
  files = {
    entry.name: (entry.stat().st_size, sha256_of(entry.path))
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
    if entry.name.endswith(".tfrecord") or entry.name == VOCABULARY_FILE
  }
  write_json(os.path.join(folder, CROISSANT_FILE), describe(name, card, files))


def describe(
  name: str, card: DatasetCard, files: Mapping[str, tuple[int, str]]
) -> dict:
  """The content of croissant.json.

  Args:
    name: of the data set.
    card: what the records hold.
    files: size in bytes and SHA-256 of the records and vocabulary.csv, by name.
  """
  num_videos = sum(of["videos"] for of in card.splits.values())
  features = ", ".join(
    f"{feature} ({size} {dtype})"
    for feature, size, dtype in zip(
      card.feature_names, card.feature_sizes, card.feature_dtypes, strict=True
    )
  )
  level = "each frame" if card.frame_features else "the whole video"
  return {
    "@context": _CONTEXT,
    "@type": "sc:Dataset",
    "conformsTo": "http://mlcommons.org/croissant/1.1",
    "name": name,
    "description": (
      f"{num_videos} videos of {card.num_classes} classes as TFRecord files."
      f" Features of {level}: {features}. Made by:"
      f" {card.made_by.get('command', 'unknown')}"
    ),
    "version": "1.0.0",
    "datePublished": datetime.date.today().isoformat(),
    "license": _NOT_STATED,
    "citeAs": _NOT_STATED,
    "distribution": [
      *(_file_object(name, *of) for name, of in files.items()),
      *(_file_set(split) for split in card.splits),
    ],
    "recordSet": [
      _split_set(card),
      _class_set(),
      *(_video_set(card, split) for split in card.splits),
    ],
  }


def _file_object(name: str, size: int, digest: str) -> dict:
  is_csv = name == VOCABULARY_FILE
  return {
    "@type": "cr:FileObject",
    "@id": name,
    "name": name,
    "contentUrl": name,
    "contentSize": f"{size} B",
    "encodingFormat": "text/csv" if is_csv else _TFRECORD,
    "sha256": digest,
  }


def _file_set(split: str) -> dict:
  return {
    "@type": "cr:FileSet",
    "@id": f"files-of-{split}",
    "name": f"files-of-{split}",
    "description": f"The records of the split {split}.",
    "encodingFormat": _TFRECORD,
    "includes": f"{split}*.tfrecord",
  }


def _field(
  records: str, name: str, data_type: str, source=None, **more
) -> dict:
  """A field of a record set; without a source its values are in the set."""
  field = {
    "@type": "cr:Field",
    "@id": f"{records}/{name}",
    "name": name,
    "dataType": data_type,
    **more,
  }
  if source is not None:
    field["source"] = source
  return field


def _split_set(card: DatasetCard) -> dict:
  """The splits and their numbers of videos, which stand in this file."""
  return {
    "@type": "cr:RecordSet",
    "@id": "splits",
    "name": "splits",
    "description": "The splits and their numbers of videos.",
    "dataType": "cr:Split",
    "key": {"@id": "splits/name"},
    "field": [
      _field("splits", "name", "sc:Text"),
      _field("splits", "videos", "sc:Integer"),
    ],
    "data": [
      {"splits/name": split, "splits/videos": of["videos"]}
      for split, of in card.splits.items()
    ],
  }


def _class_set() -> dict:
  """The classes, which stand in vocabulary.csv."""

  def field(name: str, data_type: str, column: str) -> dict:
    source = {
      "fileObject": {"@id": VOCABULARY_FILE},
      "extract": {"column": column},
    }
    return _field("classes", name, data_type, source)

  return {
    "@type": "cr:RecordSet",
    "@id": "classes",
    "name": "classes",
    "description": "The classes and their numbers of training videos.",
    "key": {"@id": "classes/index"},
    "field": [
      field("index", "sc:Integer", "Index"),
      field("name", "sc:Text", "Name"),
      field("videos", "sc:Integer", "TrainVideoCount"),
    ],
  }


def _video_set(card: DatasetCard, split: str) -> dict:
  """The videos of a split, which stand in records."""
  records = f"videos-of-{split}"
  ranges = card.byte_ranges()

  def field(name: str, data_type: str, **more) -> dict:
    source = {
      "fileSet": {"@id": f"files-of-{split}"},
      "extract": {"column": name},
    }
    return _field(records, name, data_type, source, **more)

  def meaning(name: str, dtype: str) -> dict:
    """What bytes stand for: the format has no place for it but a text."""
    if dtype != "uint8":
      return {}
    of = ranges.get(name, quantization.YOUTUBE8M_RANGE)
    scale, bias = quantization.scale_and_bias(of)
    return {"description": f"The byte q stands for {bias!r} + q * {scale!r}."}

  frames = "-1," if card.frame_features else ""
  kind = "SequenceExample" if card.frame_features else "Example"
  features = zip(
    card.feature_names, card.feature_sizes, card.feature_dtypes, strict=True
  )
  return {
    "@type": "cr:RecordSet",
    "@id": records,
    "name": records,
    "description": (
      f"A tf.train.{kind} for each video, in TFRecord files. Columns are the"
      " features in it. Numbers of float16 and uint8 are stored as bytes."
    ),
    "key": {"@id": f"{records}/id"},
    "field": [
      field("id", "sc:Text"),
      field(
        "labels",
        "sc:Integer",
        isArray=True,
        arrayShape="-1",
        references={"field": {"@id": "classes/index"}},
      ),
      *(
        field(
          name,
          _DATA_TYPES[dtype],
          isArray=True,
          arrayShape=f"{frames}{size}",
          **meaning(name, dtype),
          # A name may hold spaces, which the library allows in no id.
          **{"@id": f"{records}/feature-{number}"},
        )
        for number, (name, size, dtype) in enumerate(features)
      ),
    ],
  }
