"""Tests of what a real TensorBoard shows of a run and its evaluation."""

import json
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request

import in_process
import pytest
from conftest import PATIENCE_SECONDS, Program, event_tags

TRAINING_TAGS = {
  "label_loss",
  "reg_loss",
  "learning_rate",
  "model/Training_Hit@1",
  "model/Training_Perr",
  "model/Training_GAP",
  "global_step/Examples/Second",
}
EVALUATION_TAGS = {
  "GlobalStep/Eval_Hit@1": "avg_hit_at_one",
  "GlobalStep/Eval_Perr": "avg_perr",
  "GlobalStep/Eval_Loss": "avg_loss",
  "GlobalStep/Eval_Example_Second": "examples_per_second",
  "Epoch/Eval_Avg_Hit@1": "avg_hit_at_one",
  "Epoch/Eval_Avg_Perr": "avg_perr",
  "Epoch/Eval_Avg_Loss": "avg_loss",
  "Epoch/Eval_MAP": "map",
  "Epoch/Eval_GAP": "gap",
}


@pytest.fixture(scope="module")
def evaluated_run(video_run, data_dir, tmp_path_factory):
  """train_dir of a training of 24 steps and its evaluation."""
  train_dir = tmp_path_factory.mktemp("tensorboard") / "model"
  shutil.copytree(video_run[0], train_dir)
  in_process.run(
    "eval",
    f"--train_dir={train_dir}",
    f"--eval_data_pattern={data_dir}/video/validate*.tfrecord",
    "--run_once",
  )
  return train_dir


@pytest.fixture(scope="module")
def get_json(evaluated_run, tmp_path_factory):
  """A function that asks a running TensorBoard: path, queries -> content."""
  # Ignores proxies that the environment may set.
  opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  with Program(
    tmp_path_factory.mktemp("log") / "log",
    "-m",
    "tensorboard.main",
    f"--logdir={evaluated_run}",
    "--port=0",  # any free one
    "--host=127.0.0.1",
  ) as tensorboard:
    tensorboard.wait_for_line("(Press CTRL+C to quit)")
    address = re.search(r"http://127\.0\.0\.1:\d+/", tensorboard.log)[0]

    def get(path, **queries):
      query = urllib.parse.urlencode(queries)
      with opener.open(f"{address}data/{path}?{query}", timeout=30) as answer:
        content = answer.read()
      return (
        content.decode() if path.endswith("/graph") else json.loads(content)
      )

    yield get


def test_scalars_of_training_and_evaluation(get_json, evaluated_run):
  # It already answers while it loads the events.
  give_up = time.monotonic() + PATIENCE_SECONDS
  while True:
    tags = get_json("plugin/scalars/tags")
    if (
      set(tags.get(".", ())) >= TRAINING_TAGS
      and set(EVALUATION_TAGS) <= set(tags.get("eval", ()))
    ) or time.monotonic() > give_up:
      break
    time.sleep(0.2)
  assert set(tags) == {".", "eval"}
  assert set(tags["."]) >= TRAINING_TAGS
  assert set(tags["eval"]) >= set(EVALUATION_TAGS)

  def scalars(run, tag):
    points = get_json("plugin/scalars/scalars", run=run, tag=tag)
    return {step: value for _, step, value in points}

  scores = json.loads((evaluated_run / "eval/metrics-24.json").read_text())
  for tag, name in EVALUATION_TAGS.items():
    assert scalars("eval", tag) == pytest.approx({24: scores[name]}), tag
  written = event_tags(evaluated_run)
  for tag in TRAINING_TAGS:
    shown = scalars(".", tag)
    assert shown == pytest.approx(written[tag]), tag
    assert max(shown) == 24


def test_histograms_of_training(get_json):
  tags = get_json("plugin/histograms/tags")
  assert {"fully_connected/kernel", "fully_connected/bias"} <= set(tags["."])


def test_the_graph_of_the_model(get_json):
  assert get_json("plugin/graphs/info") == {
    ".": {"run": ".", "tags": {}, "run_graph": True}
  }
  graph = get_json("plugin/graphs/graph", run=".", conceptual="false")
  for name in ("video_matrix", "l2_normalize", "fully_connected", "Dense"):
    assert name in graph


def test_charts_of_training_and_evaluation(get_json):
  layout = get_json("plugin/custom_scalars/layout")
  charts = {
    chart["title"]: chart["multiline"]["tag"]
    for category in layout["category"]
    for chart in category["chart"]
  }
  for name in ("GAP", "Hit@1", "PERR", "loss"):
    (tag,) = charts[name]
    points = get_json("plugin/custom_scalars/scalars", run=".", tag=tag)
    assert points["regex_valid"]
    assert list(points["tag_to_events"]) == [f"compare/{name}"]
    steps = [step for _, step, _ in points["tag_to_events"][f"compare/{name}"]]
    assert len(steps) > 1
    assert steps[-1] == 24


def test_the_page_with_the_command(get_json, data_dir):
  assert get_json("plugin/text/tags") == {".": ["run"]}
  (page,) = get_json("plugin/text/text", run=".", tag="run")
  assert page["step"] == 0
  assert (
    f"python train.py --train_dir={data_dir.parents[1]}/video_run/"
  ) in page["text"]
  assert f"<code>{data_dir}/video/train*.tfrecord</code>" in page["text"]
  assert "3 files, about 60 examples" in page["text"]


def test_hyper_parameters_and_the_scores_of_the_evaluation(
  get_json, evaluated_run
):
  request = json.dumps({"experimentName": ""})
  experiment = get_json("plugin/hparams/experiment", request=request)
  names = {info["name"] for info in experiment["hparamInfos"]}
  assert {"batch_size", "optimizer", "model", "l2_penalty"} <= names
  request = json.dumps(
    {
      "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_RUNNING", "STATUS_SUCCESS"],
      "colParams": [],
      "startIndex": 0,
      "sliceSize": 10,
      "includeMetrics": True,
    }
  )
  answer = get_json("plugin/hparams/session_groups", request=request)
  (group,) = answer["sessionGroups"]
  assert group["hparams"]["batch_size"] == 10
  assert group["hparams"]["model"] == "LogisticModel"
  scores = json.loads((evaluated_run / "eval/metrics-24.json").read_text())
  found = {
    value["name"]["tag"]: value["value"] for value in group["metricValues"]
  }
  for tag, name in EVALUATION_TAGS.items():
    assert found[tag] == pytest.approx(scores[name]), tag


def test_curves_and_distributions_of_an_evaluation(get_json):
  tag = "Eval_PR/all/pr_curves"
  tags = get_json("plugin/pr_curves/tags")["eval"]
  assert tags[tag]["displayName"] == "all classes"
  assert len(tags) == 6
  curves = get_json("plugin/pr_curves/pr_curves", run="eval", tag=tag)
  (curve,) = curves["eval"]
  assert curve["step"] == 24
  # TensorBoard leaves out the thresholds at which nothing is predicted.
  assert curve["recall"][0] == pytest.approx(1.0)
  assert sorted(curve["recall"], reverse=True) == curve["recall"]
  assert len(curve["precision"]) == len(curve["thresholds"]) > 50
  tags = get_json("plugin/distributions/tags")
  assert "Epoch/Eval_AP_By_Class" in tags["eval"]
