"""What the report says of scores: published means come out again, and what is missing is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmsearch.evaluation.mmeb.published import published_scores
from mmsearch.evaluation.mmeb.report import (
    ALL,
    BLOCKS,
    mean_of,
    metadata_of,
    plot,
    read_report,
    text_table,
    write_report,
)
from mmsearch.evaluation.mmeb.tasks import COUNTED, TASKS, counted_before_repair

V2 = "VLM2Vec-V2.0 (re-run)"


def write_scores(out: Path, scores: dict[str, float]) -> Path:
    """Score files as the reference writes them."""
    for name, score in scores.items():
        task = TASKS[name]
        (out / task.modality).mkdir(parents=True, exist_ok=True)
        content = {"hit@1": 0.0, "ndcg_linear@5": 0.0, task.metric: score / 100, "num_data": task.queries or 1}
        (out / task.modality / f"{name}_score.json").write_text(json.dumps(content))
    return out


def test_the_references_stored_scores_give_the_published_means(tmp_path):
    """58.0 of the paper and 59.2 of the leaderboard, through score files on disk."""
    paper = published_scores()["VLM2Vec-V2.0 (paper)"]
    counted = {task.name: paper[task.name] for task in COUNTED}
    report = read_report(write_scores(tmp_path, counted), "VLM2Vec/VLM2Vec-V2.0")
    means = report.means()
    assert round(means[ALL].value, 1) == 59.2
    assert {name: round(means[name].value, 1) for name in ("image", "video", "visdoc")} == {"image": 64.9, "video": 34.6, "visdoc": 69.2}  # fmt: skip
    assert all(mean.is_whole for mean in means.values()) and report.warnings() == []
    assert round(mean_of(paper, counted_before_repair()).value, 1) == 58.0
    assert "| **VLM2Vec/VLM2Vec-V2.0** | 59.2 | 64.9 | 34.6 | 69.2 | this run |" in report.markdown()


def test_blocks_are_all_modalities_and_groups():
    sizes = {block.name: len(block.tasks) for block in BLOCKS}
    assert (sizes[ALL], sizes["image"], sizes["video"], sizes["visdoc"]) == (78, 36, 18, 24)
    assert list(sizes)[:6] == [ALL, "image", "I-CLS", "I-QA", "I-RET", "I-VG"]
    assert sum(size for name, size in sizes.items() if "-" in name) == 78


def test_missing_tasks_are_told_and_others_averaged_over_the_same(tmp_path):
    report = read_report(write_scores(tmp_path, {"VOC2007": 50.0, "N24News": 25.0, "MSVD": 10.0}), "mine")
    assert report.warnings() == ["3 of 78 tasks: means are over these, and published means over the same"]
    rows = {row[0]: row[1:] for row in report.table({V2: published_scores()[V2], "half": {"VOC2007": 30.0}})}
    assert rows["all"] == ["3 of 78", "28.3", "68.4", "30.0 (1)"]
    assert rows["image classification"] == ["2 of 10", "37.5", "79.0", "30.0 (1)"]
    assert rows["video retrieval"] == ["1 of 5", "10.0", "47.3", "–"]
    assert "visdoc" not in rows
    text = report.markdown()
    assert "**3 of 78 tasks" in text and "Without scores: ImageNet-1K, HatefulMemes" in text and "this run" not in text
    assert report.files["Place365"] == "FILE_N/A" and report.files["ViDoRe_docvqa"] == "DIR_N/A"


def test_a_task_of_another_size_is_told(tmp_path):
    """A download that was cut short, or a miniature."""
    write_scores(tmp_path, {task.name: 50.0 for task in COUNTED})
    (tmp_path / "video" / "MSVD_score.json").write_text(json.dumps({"hit@1": 0.5, "num_data": 600}))
    report = read_report(tmp_path, "mine")
    (words,) = report.warnings()
    assert words == "1 tasks have another number of queries than the benchmark (MSVD: 600 for 670): not its numbers"
    assert "this run" not in report.markdown()


def test_variants_are_shown_and_not_averaged(tmp_path):
    report = read_report(write_scores(tmp_path, {"ViDoSeek-page": 20.0, "ViDoSeek-page-fixed": 80.0}), "mine")
    assert report.means()["visdoc"].value == 80.0
    assert ["ViDoSeek-page (not in the means)", "ndcg_linear@5", "20.0"] in report.task_table({})


def test_the_leaderboards_json(tmp_path):
    write_scores(tmp_path, {"VOC2007": 50.0})
    (tmp_path / "image" / "GQA_score.json").write_text("{cut sho")
    report = read_report(tmp_path, "VLM2Vec/VLM2Vec-V2.0", dim=1536)
    written = write_report(report, tmp_path)
    assert [path.name for path in written] == ["VLM2Vec-V2.0.json", "VLM2Vec-V2.0.md"]
    record = json.loads(written[0].read_text())
    assert {name: len(content) for name, content in record["metrics"].items()} == {"image": 36, "video": 18, "visdoc": 24}  # fmt: skip
    assert record["metrics"]["image"]["VOC2007"]["hit@1"] == 0.5
    assert (record["metrics"]["image"]["GQA"], record["metrics"]["video"]["MSVD"]) == ("JSON_ERROR", "DIR_N/A")
    about = record["metadata"]
    assert (about["model_name"], about["model_size"], about["embedding_dimension"]) == ("VLM2Vec-V2.0", 2.21, 1536)
    assert about["model_backbone"] == "Qwen/Qwen2-VL-2B-Instruct"
    assert about["url"] == "https://huggingface.co/VLM2Vec/VLM2Vec-V2.0" and "partial" not in about
    assert metadata_of("/home/me/model/")["model_name"] == "model" and metadata_of("/home/me/model")["url"] is None
    assert (report.model, read_report(tmp_path, "/home/me/model").model) == ("VLM2Vec/VLM2Vec-V2.0", "model")


def test_a_run_over_some_queries_says_so(tmp_path):
    write_scores(tmp_path / "first-5", {task.name: 50.0 for task in COUNTED})
    report = read_report(tmp_path, "mine", limit=5)
    assert report.warnings() == ["only the first 5 queries of each task: not the benchmark's numbers"]
    assert report.metadata["partial"] == "first 5 queries of each task"
    assert "this run" not in report.markdown()
    assert write_report(report, tmp_path)[0] == tmp_path / "first-5" / "mine.json"


def test_the_plot_shows_the_blocks_that_have_scores(tmp_path):
    pytest.importorskip("matplotlib")
    report = read_report(write_scores(tmp_path, {"VOC2007": 50.0}), "mine")
    chart = plot(report, tmp_path / "mine.png")
    assert chart is not None and chart.read_bytes().startswith(b"\x89PNG")
    assert plot(read_report(tmp_path / "nothing", "mine"), tmp_path / "none.png") is None


def test_tables_are_flush():
    assert text_table([["a", "b"], ["long", "1"], ["x", "100"]]) == ["a       b", "long    1", "x     100"]
