"""Judged queries: what the file may say, which items its places mean, every metric by hand, and tests that know what chance is."""

from __future__ import annotations

import json
import os
import threading
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from mmsearch.errors import DatasetError
from mmsearch.evaluation.metrics import intervals_of
from mmsearch.items import Item, Kind
from mmsearch.judgements.adding import Added, add_query, take_back
from mmsearch.judgements.comparison import SILENCE, compare_runs, paired_differences, randomisation_p
from mmsearch.judgements.origin import git_revision, origin
from mmsearch.judgements.places import ItemsByName, Place, parse_place
from mmsearch.judgements.queries import JudgedQuery, merge_repeated, read_queries
from mmsearch.judgements.run import Asked, Outcome, Run
from mmsearch.judgements.scores import METRICS, ranks_of, values_of
from mmsearch.judgements.tables import comparison_lines, run_lines


def item(path: str, *, page: int | None = None, span: tuple[float, float] | None = None, item_id: int = 1) -> Item:
    kind: Kind = "page" if page else "clip" if span else "image"
    start_s, end_s = span or (None, None)
    return Item(item_id, item_id, Path(path), kind, 0, page, start_s, end_s, "", {}, None)


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


# ---------------------------------------------------------------- places


@pytest.mark.parametrize(
    ("place", "right", "wrong"),
    [
        (Place("q3.pdf"), [item("/a/talks/q3.pdf", page=1), item("/b/q3.pdf", page=9)], [item("/a/eq3.pdf", page=1)]),
        (Place("talks/q3.pdf"), [item("/a/talks/q3.pdf", page=1)], [item("/a/othertalks/q3.pdf", page=1)]),
        (Place("/a/q3.pdf"), [item("/a/q3.pdf", page=1)], [item("/b/a/q3.pdf", page=1)]),
        (Place("./a/q3.pdf"), [item("/x/a/q3.pdf", page=1)], []),
        (Place("q3.pdf", page=2), [item("/q3.pdf", page=2)], [item("/q3.pdf", page=1), item("/q3.pdf")]),
        (
            Place("v.mp4", start_s=4, end_s=8),
            [item("/v.mp4", span=(0, 5)), item("/v.mp4", span=(5, 6)), item("/v.mp4", span=(7, 20))],
            [item("/v.mp4", span=(0, 4)), item("/v.mp4", span=(8, 9)), item("/v.mp4"), item("/v.mp4", page=4)],
        ),
        (Place("v.mp4", start_s=5), [item("/v.mp4", span=(5, 9))], [item("/v.mp4", span=(0, 5))]),
        (Place("v.mp4", start_s=5, end_s=5), [item("/v.mp4", span=(5, 9))], [item("/v.mp4", span=(0, 5))]),
        (Place("v.mp4", end_s=5), [item("/v.mp4", span=(0, 5))], [item("/v.mp4", span=(5, 9))]),
        (Place("v.mp4"), [item("/v.mp4", span=(0, 5)), item("/v.mp4", span=(5, 9))], []),
        (Place("Caf\u00e9.jpg"), [item("/Cafe\u0301.jpg")], [item("/Cafe.jpg")]),
        (Place("\udcff.jpg"), [item("/\udcff.jpg")], [item("/\udcfe.jpg")]),
    ],
    ids=str,
)
def test_a_place_holds_what_it_says(place: Place, right: list[Item], wrong: list[Item]):
    assert [place.holds(one) for one in right + wrong] == [True] * len(right) + [False] * len(wrong)
    assert ItemsByName(right + wrong).at(place) == right
    assert parse_place(json.loads(json.dumps(place.record()))) == place


def test_items_of_other_kinds_are_left_out():
    page, photo = item("/a/x", page=1), item("/a/x")
    assert ItemsByName([page, photo]).at(Place("x"), ("image",)) == [photo]


# ---------------------------------------------------------------- the file


def test_a_file_of_queries_is_read(tmp_path: Path):
    (tmp_path / "chair.jpg").write_bytes(b"")
    file = write(
        tmp_path / "q.jsonl",
        {"query": "  slides about\trevenue ", "kind": "PDF", "relevant": [{"path": "a.pdf", "page": 3}], "style": "keyword", "note": 1},
        "",
        {"query": "the same in red", "image": "chair.jpg", "instruction": "", "relevant": []},
        {"image": "chair.jpg", "query": None, "relevant": [{"path": "v.mp4", "start_s": 0, "end_s": 2.5}, {"path": "v.mp4", "start_s": 0, "end_s": 2.5}]},
    )  # fmt: skip
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))  # as a spreadsheet's editor writes it
    assert read_queries(file) == [
        JudgedQuery("slides about revenue", (Place("a.pdf", 3),), "page", style="keyword"),
        JudgedQuery("the same in red", image=tmp_path / "chair.jpg", instruction=""),
        JudgedQuery("", (Place("v.mp4", None, 0, 2.5),), image=tmp_path / "chair.jpg"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("slides about revenue", "no JSON"),
        ('["x"]', "expected"),
        ('{"query": "x"}', "expected"),
        ('{"query": "x", "relevant": {"path": "a"}}', "expected"),
        ('{"query": "x", "relevant": ["a.pdf"]}', "a right answer is"),
        ('{"query": "x", "relevant": [{"path": ""}]}', "a right answer is"),
        ('{"query": "x", "relevant": [{"path": "a", "pages": 3}]}', "unknown field pages"),
        ('{"query": "x", "relevant": [{"path": "a", "page": 0}]}', "page 0"),
        ('{"query": "x", "relevant": [{"path": "a", "page": true}]}', "page true"),
        ('{"query": "x", "relevant": [{"path": "a", "start_s": "3"}]}', 'start_s "3"'),
        ('{"query": "x", "relevant": [{"path": "a", "start_s": 1e999}]}', "start_s"),
        ('{"query": "x", "relevant": [{"path": "a", "start_s": 5, "end_s": 3}]}', "end_s 3 lies before start_s 5"),
        ('{"query": "x", "kind": "song", "relevant": []}', "'song' is no kind"),
        ('{"query": 3, "relevant": []}', "query 3 is no text"),
        ('{"query": " ", "relevant": []}', "neither a query nor an image"),
        ('{"query": "x", "image": "lost.jpg", "relevant": []}', "lost.jpg is not there"),
    ],
)
def test_a_bad_line_is_named_or_left_out(tmp_path: Path, line: str, reason: str):
    file = write(tmp_path / "q.jsonl", {"query": "good", "relevant": []}, line, {"query": "also good", "relevant": []})
    with pytest.raises(DatasetError, match=r"q\.jsonl, line 2: ") as error:
        read_queries(file)
    assert reason in str(error.value)
    told: list[str] = []
    assert [one.query for one in read_queries(file, on_bad=told.append)] == ["good", "also good"]
    assert len(told) == 1 and "line 2" in told[0]


def test_a_missing_file_says_how_to_begin_one(tmp_path: Path):
    with pytest.raises(DatasetError, match="eval add"):
        read_queries(tmp_path / "none.jsonl")


def test_repeated_queries_are_one():
    merged = merge_repeated(
        [
            JudgedQuery("x", (Place("a"),)),
            JudgedQuery("x", (Place("a"), Place("b")), style="keyword"),
            JudgedQuery("x", (Place("c"),), "page"),
        ]
    )
    assert merged == [
        JudgedQuery("x", (Place("a"), Place("b")), style="keyword"),
        JudgedQuery("x", (Place("c"),), "page"),
    ]


# ---------------------------------------------------------------- adding


def test_queries_are_added_once_and_merged(tmp_path: Path):
    file = tmp_path / "new" / "q.jsonl"
    first = JudgedQuery("slides", (Place("a.pdf", 1),), "page")
    assert add_query(file, first) == Added(is_new=True, answers=1)
    assert add_query(file, first) == Added(is_new=False, answers=0)
    before = file.read_text()
    assert add_query(file, JudgedQuery("slides", (Place("a.pdf", 1),))) == Added(is_new=True, answers=1)  # of any kind
    assert file.read_text().startswith(before)
    more = JudgedQuery("slides", (Place("b.pdf", 2), Place("a.pdf", 1)), "page", style="keyword")
    assert add_query(file, more) == Added(is_new=False, answers=1)
    assert add_query(file, JudgedQuery("nothing here")) == Added(is_new=True, answers=0)
    assert read_queries(file) == [
        JudgedQuery("slides", (Place("a.pdf", 1), Place("b.pdf", 2)), "page", style="keyword"),
        JudgedQuery("slides", (Place("a.pdf", 1),)),
        JudgedQuery("nothing here"),
    ]
    with pytest.raises(DatasetError, match=r"line 1.*take them out"):
        add_query(file, JudgedQuery("slides", kind="page"))
    assert list(file.parent.iterdir()) == [file]  # no scratch stays


def test_adding_keeps_what_it_does_not_know(tmp_path: Path):
    kept = '{"relevant":[{"path":"z"}],   "query":"as it was", "judge":"me"}'
    file = write(tmp_path / "q.jsonl", kept, '{"query": "grows", "relevant": [], "judge": "you"}')
    file.write_text(file.read_text().rstrip("\n"))  # a last line without its end
    file.chmod(0o640)
    (tmp_path / "link.jsonl").symlink_to(file)
    add_query(tmp_path / "link.jsonl", JudgedQuery("grows", (Place("\udcff.jpg"),)))
    add_query(tmp_path / "link.jsonl", JudgedQuery("new"))
    lines = file.read_text().split("\n")
    assert lines[0] == kept and json.loads(lines[1])["judge"] == "you" and len(lines) == 4 and lines[3] == ""
    assert [len(one.relevant) for one in read_queries(file)] == [1, 1, 0]
    assert read_queries(file)[1].relevant == (Place("\udcff.jpg"),)
    assert file.stat().st_mode & 0o777 == 0o640 and (tmp_path / "link.jsonl").is_symlink()


def test_what_was_said_can_be_taken_back(tmp_path: Path):
    other = '{"query": "other",   "relevant": []}'
    file = write(tmp_path / "q.jsonl", other)
    page, photo = item("/x/a.pdf", page=2), item("/x/b.jpg")
    asked = JudgedQuery("slides", (Place("a.pdf", 2), Place("a.pdf"), Place("b.jpg")), style="keyword")
    add_query(file, asked)
    assert not take_back(file, asked, item("/x/c.jpg")) and not take_back(file, JudgedQuery("unknown"), page)
    assert not take_back(file, JudgedQuery("other"), page)
    assert take_back(file, asked, page)
    assert read_queries(file)[1] == JudgedQuery("slides", (Place("b.jpg"),), style="keyword")
    assert take_back(file, asked, photo)
    assert file.read_text() == other + "\n"
    assert take_back(file, JudgedQuery("other"), None)
    assert file.read_text() == "" and read_queries(file) == []


def test_a_broken_file_is_not_touched(tmp_path: Path):
    file = write(tmp_path / "q.jsonl", "{")
    with pytest.raises(DatasetError, match="line 1"):
        add_query(file, JudgedQuery("x"))
    assert file.read_text() == "{\n"


def test_pictures_are_named_from_the_files_folder(tmp_path: Path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(b"")
    judged = JudgedQuery("", (Place("b.jpg"),), image=tmp_path / "pictures" / "a.jpg")
    add_query(tmp_path / "q.jsonl", judged)
    assert json.loads((tmp_path / "q.jsonl").read_text())["image"] == "pictures/a.jpg"
    assert add_query(tmp_path / "q.jsonl", judged) == Added(is_new=False, answers=0)
    add_query(tmp_path / "pictures" / "sub" / "q.jsonl", judged)
    assert read_queries(tmp_path / "pictures" / "sub" / "q.jsonl") == [judged]


def test_nothing_is_lost_when_two_add_at_once(tmp_path: Path):
    file = tmp_path / "q.jsonl"
    threads = [
        threading.Thread(target=lambda n=n: [add_query(file, JudgedQuery(f"{n} {m}")) for m in range(8)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.query for one in read_queries(file)) == [f"{n} {m}" for n, m in product(range(4), range(8))]


# ---------------------------------------------------------------- scores


def test_ranks_of_answers():
    a, b, c = frozenset("a"), frozenset("b"), frozenset("cd")
    assert ranks_of("xayb", [a, b]) == [2, 4]
    assert ranks_of("xd", [c, a]) == [2, None]  # either stands for it
    assert ranks_of("dc", [c]) == [1]  # and the other one stands for nothing
    assert ranks_of("aaxb", [a, b]) == [1, 4]  # a copy takes its place, and is right once
    assert ranks_of("cx", [frozenset("cde"), frozenset("c")]) == [None, 1]  # a hit stands for one answer, the narrowest
    assert ranks_of("ced", [frozenset("cde"), frozenset("c")]) == [2, 1]
    assert ranks_of("x", [frozenset()]) == [None]
    assert ranks_of("", [a]) == [None]


def test_metrics_by_hand():
    found = values_of([[1], [3, 1], [6, None], [None], [11, 12]])
    log2 = np.log2
    expected = {
        "hit@1": [1, 1, 0, 0, 0],
        "hit@5": [1, 1, 0, 0, 0],
        "hit@10": [1, 1, 1, 0, 0],
        "recall@10": [1, 1, 0.5, 0, 0],
        "MRR": [1, 1, 1 / 6, 0, 1 / 11],
        "nDCG@5": [1, (1 + 0.5) / (1 + 1 / log2(3)), 0, 0, 0],
        "nDCG@10": [1, 1.5 / (1 + 1 / log2(3)), (1 / log2(7)) / (1 + 1 / log2(3)), 0, 0],
    }
    assert tuple(found) == METRICS
    for name, values in expected.items():
        assert found[name] == pytest.approx(values), name


def test_more_answers_than_places_can_still_be_perfect():
    found = values_of([list(range(1, 13))])
    assert found["nDCG@5"] == found["nDCG@10"] == [1.0] and found["recall@10"] == pytest.approx([10 / 12])


def test_intervals_hold_the_true_mean_about_95_times_of_100():
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(300):
        low, high = intervals_of({"x": (rng.random(60) < 0.6).astype(float)}, seed=trial)["x"]
        held += low <= 0.6 <= high
    assert 0.90 <= held / 300 <= 0.98


# ---------------------------------------------------------------- comparing


def test_randomisation_by_hand():
    assert randomisation_p(np.zeros(5)) == 1.0
    assert randomisation_p(np.array([1.0])) == 1.0  # both signs are as far from 0
    assert randomisation_p(np.array([1.0, 1.0, 0.0])) == 0.5  # of ++ +- -+ -- two
    assert randomisation_p(np.array([3.0, 1.0, 1.0])) == 0.25
    assert randomisation_p(np.array([3.0, -1.0, 1.0])) == pytest.approx(0.75)


def test_randomisation_by_draws_agrees_with_the_exact_one(monkeypatch: pytest.MonkeyPatch):
    gains = np.random.default_rng(1).normal(0.3, 1, 12)
    exact = randomisation_p(gains)
    monkeypatch.setattr("mmsearch.judgements.comparison.EXACT_UP_TO", 0)
    assert randomisation_p(gains) == pytest.approx(exact, abs=0.02)


def test_chance_differences_are_rarely_called_significant():
    rng = np.random.default_rng(2)
    low = [randomisation_p(rng.choice([-0.5, 0.0, 0.5], 12)) < 0.05 for _ in range(200)]
    assert np.mean(low) <= 0.08
    assert randomisation_p(rng.normal(0.5, 0.5, 200)) == pytest.approx(1 / 10_001)  # the smallest that draws can tell


def test_paired_differences_by_hand():
    found = paired_differences({"m": np.array([0.0, 0.5, 1.0, 1.0])}, {"m": np.array([1.0, 1.0, 1.0, 0.5])})["m"]
    assert (found.first, found.second, found.difference) == (0.625, 0.875, 0.25)
    assert (found.wins, found.losses, found.ties) == (2, 1, 1)
    assert found.interval[0] < 0.25 < found.interval[1]
    assert found.p == 0.75  # of 1 ± 0.5 ± 0.5 and its mirror, only 1 - 0.5 - 0.5 is nearer to 0 than 1


ABOUT = {
    "name": "",
    "model": {"name": "toy", "key": "toy-1"},
    "library": {"id": "1", "folder": "/l", "items": {"page": 3}},
    "settings": {"depth": 100, "cut_off": 0.3},
}


def a_run(*ranks: tuple[str, list[int | None] | None, int], **about: object) -> Run:
    """Of (query, ranks of its answers or None for a query without, hits shown)."""
    asked = []
    for query, of, shown in ranks:
        relevant = tuple(Place(f"{query} {n}") for n in range(len(of or ())))
        outcome = Outcome(tuple(of or ()), (0.5,) * len(relevant), (None,) * len(relevant), shown, 10.0 + len(asked))
        asked.append(Asked(JudgedQuery(query, relevant, style=query[0]), "page", (), {"fused": outcome}))
    return Run({**ABOUT, **about}, ("fused",), asked)


FIRST = a_run(("a", [1], 3), ("b", [4, None], 0), ("none", None, 2), ("nil", None, 0))
SECOND = a_run(("a", [2], 3), ("b", [1, 2], 1), ("none", None, 0), ("nil", None, 0))


def test_a_run_says_how_good_and_how_silent_it_is():
    found = FIRST.metrics()["fused"]
    assert found["all"]["queries"] == 2 and found["all"]["MRR"]["mean"] == 0.625
    assert found["all"]["recall@10"]["mean"] == 0.75
    assert found["by_style"]["b"]["hit@5"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert found["no_answer"]["rightly_silent"]["mean"] == found["no_answer"]["false_hits"]["mean"] == 0.5
    assert found["no_answer"]["hits_shown"] == 1.0 and found["wrongly_silent"]["mean"] == 0.5
    assert found["latency_ms"] == {"median": 11.5, "p95": pytest.approx(12.85)}
    lines = "\n".join(run_lines(FIRST))
    assert "2 queries with an answer, 2 without, in 3 pages" in lines and "MRR" in lines


def test_a_run_survives_the_disk(tmp_path: Path):
    FIRST.save(tmp_path / "run.json")
    assert Run.load(tmp_path / "run.json") == FIRST
    assert json.loads((tmp_path / "run.json").read_text())["metrics"] == FIRST.metrics()
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
    for content, words in (("{}", "is no run"), ("[]", "is no run"), ("x", "is no run"), ('{"schema": 2}', "schema 2")):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(DatasetError, match=words):
            Run.load(tmp_path / "run.json")


def test_two_runs_are_compared():
    found = compare_runs(FIRST, SECOND)
    metrics = found.differences["fused"]
    assert (metrics["MRR"].first, metrics["MRR"].second) == (0.625, 0.75)
    assert (metrics["MRR"].wins, metrics["MRR"].losses) == (1, 1)
    assert (metrics[SILENCE].first, metrics[SILENCE].second) == (0.5, 1.0)
    assert [(one.query, one.first_rank, one.second_rank) for one in found.changes["fused"]] == [
        ('"b"', 4, 1),
        ('"a"', 1, 2),
    ]
    assert found.notes == [] and json.loads(json.dumps(found.record()))["queries"] == 2
    assert "rank 4 → rank 1" in "\n".join(comparison_lines(found))
    same = compare_runs(FIRST, FIRST).differences["fused"]
    assert all(one.p == 1.0 and one.difference == 0 and one.interval == (0, 0) for one in same.values())


def test_other_queries_are_refused_or_left_out():
    more = a_run(("a", [2], 3), ("b", [1], 1), ("c", [1], 1), ("none", None, 0))
    with pytest.raises(DatasetError) as error:
        compare_runs(FIRST, more)
    for words in ('"b" has other right answers', '"nil" is only in the first', '"c" is only in the second', "--common"):
        assert words in str(error.value)
    found = compare_runs(FIRST, more, common=True)
    assert (found.queries, found.unanswerable, len(found.left_out)) == (1, 1, 3)
    with pytest.raises(DatasetError, match="no query in common"):
        compare_runs(a_run(("x", [1], 1)), a_run(("y", [1], 1)), common=True)


def test_runs_of_other_depths_modes_and_libraries():
    deeper = a_run(("a", [1], 3), settings={"depth": 50, "cut_off": 0.3})
    with pytest.raises(DatasetError, match="50 and 100 hits"):
        compare_runs(a_run(("a", [1], 3)), deeper)
    with pytest.raises(DatasetError, match="one run searched by fused"):
        compare_runs(a_run(("a", [1], 3)), Run(ABOUT, ("dense",), a_run(("a", [1], 3)).asked))
    elsewhere = a_run(("a", [1], 3), library={"id": "2", "folder": "/m", "items": {}})
    assert compare_runs(a_run(("a", [1], 3)), elsewhere).notes == ["the runs asked different libraries: /l and /m"]


# ---------------------------------------------------------------- where a run comes from


def test_a_run_names_the_code_that_made_it(tmp_path: Path):
    assert origin()["mmsearch"] and "numpy" in origin()["packages"]
    (tmp_path / "__init__.py").touch()
    assert git_revision(tmp_path) is None  # installed, or another's repository
    repository = tmp_path / "repository"
    repository.mkdir()

    def git(*words: str) -> None:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"]
        assert os.spawnlp(os.P_WAIT, "git", "git", "-C", str(repository), *identity, *words) == 0

    package = repository / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    git("init", "-q")
    assert git_revision(package) is None  # not a file of that repository yet
    git("add", "package")
    git("commit", "-q", "-m", "first")
    found = git_revision(package)
    assert found is not None and len(found["revision"]) == 40 and not found["is_changed"]
    (package / "__init__.py").write_text("changed")
    assert git_revision(package) == {**found, "is_changed": True}
