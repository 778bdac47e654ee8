"""The real command, as a user runs it: a process, its two streams, its exit code."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pymupdf
import pytest
from PIL import Image

MMSEARCH = [sys.executable, "-P", "-m", "mmsearch"]


def run(*arguments: object, library: Path | None = None, stdin: str | None = None, **environment: str):
    """Run `mmsearch …` with the toy model; the result's streams are text."""
    env = os.environ | {"MMSEARCH_MODEL": "toy", "NO_COLOR": "1"} | environment
    env.pop("MMSEARCH_LIBRARY", None)
    if library is not None:
        env["MMSEARCH_LIBRARY"] = str(library)
    return subprocess.run(
        [*MMSEARCH, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        env=env,
        timeout=120,
    )


def write_pdf(path: Path, *pages: str) -> None:
    with pymupdf.open() as document:
        for words in pages:
            document.new_page(width=300, height=400).insert_text((40, 60), words)
        document.save(path)


def write_video(path: Path, *colours: str) -> None:
    """Three seconds per colour, ten frames each second."""
    import av

    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for colour in colours:
            frame = av.VideoFrame.from_image(Image.new("RGB", (160, 120), colour))
            for _ in range(30):
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three one-coloured photos, a PDF of two pages, a video of two scenes, and a file that is no PDF."""
    folder = tmp_path_factory.mktemp("things")
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (120, 90), {"green": (0, 255, 0)}.get(colour, colour)).save(folder / f"{colour[0]}.png")
    write_pdf(folder / "report.pdf", "quarterly revenue grew strongly", "hiring plans next winter")
    write_video(folder / "film.mp4", "red", "blue")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7\nnothing follows")
    return folder


@pytest.fixture(scope="module")
def ingested(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """The library of that folder, and the process that made it."""
    library = tmp_path_factory.mktemp("library") / "index_data"
    return library, run("ingest", folder, library=library)


@pytest.fixture(scope="module")
def library(ingested) -> Path:
    return ingested[0]


def test_help_is_quick_and_imports_nothing_heavy():
    script = (
        "import sys; sys.argv = ['mmsearch', '--help']\n"
        "from mmsearch.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'faiss', 'transformers', 'streamlit', 'sqlalchemy', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ingest" in done.stdout and "Exit codes" in done.stdout
    seconds = []
    for _ in range(3):  # of the processor: whoever else keeps it busy is no fault of ours
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert 0 < min(seconds) < 1.0


def test_version():
    import mmsearch

    assert run("--version").stdout == f"mmsearch {mmsearch.__version__}\n"


class TestBareCommand:
    """What somebody types first."""

    @pytest.mark.parametrize("command", [[], ["-v"], ["eval"]], ids=["mmsearch", "an option alone", "mmsearch eval"])
    def test_a_group_that_does_nothing_by_itself_shows_its_help(self, command: list[str]):
        done = run(*command)
        assert (done.returncode, done.stdout) == (2, "")
        lines = done.stderr.splitlines()
        assert lines[0].startswith("Usage: mmsearch") and "\\n" not in done.stderr
        group = [word for word in command if not word.startswith("-")]
        assert lines == run(*group, "--help").stdout.splitlines()

    def test_a_group_that_lists_does_so(self, tmp_path: Path):
        done = run("models", library=tmp_path / "index_data")
        assert done.returncode == 0 and done.stdout.splitlines()[0].split()[:2] == ["mini", "shipped"]

    @pytest.mark.parametrize("command", ["ingest", "query", "show", "remove", "train", "backup", "qurey"])
    def test_what_lacks_something_is_one_line(self, command: str):
        done = run(command)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1 and "--help" in done.stderr


def hits_of(done: subprocess.CompletedProcess[str]) -> list[dict]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class TestIngest:
    def test_says_a_plan_first_and_a_report_last(self, ingested):
        _, done = ingested
        assert (done.returncode, done.stdout) == (4, "")  # broken.pdf
        plan, report, *rest = done.stderr.splitlines()
        assert "3 photos, 2 PDFs (2 pages), 1 video" in plan
        assert "2 pages" in report and "3 photos" in report and "2 clips" in report and "1 file failed" in report
        assert "broken.pdf" in rest[0] and "mmsearch errors" in rest[1]
        assert "mmsearch query 'quarterly revenue grew strongly'" in done.stderr and "mmsearch ui" in done.stderr

    def test_dry_run_changes_nothing(self, folder: Path, tmp_path: Path):
        done = run("ingest", "--dry-run", folder, library=tmp_path / "index_data")
        assert done.returncode == 0, done.stderr
        assert "3 photos" in done.stderr
        assert run("query", "red", library=tmp_path / "index_data").returncode in (1, 3)

    def test_json_ends_with_the_report(self, folder: Path, tmp_path: Path):
        done = run("ingest", "--json", folder, "--exclude", "broken.pdf", library=tmp_path / "index_data")
        assert done.returncode == 0, done.stderr
        events = [json.loads(line) for line in done.stdout.splitlines()]
        told = [event["event"] for event in events if event["event"] != "progress"]
        assert told == ["plan", "report"] and events[-1]["event"] == "report"
        assert events[-1]["items"] == {"page": 2, "image": 3, "clip": 2}
        assert events[-1]["failures"] == []

    def test_second_run_finds_nothing_to_do(self, folder: Path, library: Path):
        done = run("ingest", "--json", folder, library=library)
        report = json.loads(done.stdout.splitlines()[-1])
        assert sum(report["items"].values()) == 0
        assert report["unchanged"] == 5

    def test_missing_folder_is_one_line(self, tmp_path: Path):
        done = run("ingest", tmp_path / "nowhere", library=tmp_path / "index_data")
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1 and "nowhere" in done.stderr

    @pytest.mark.skipif(os.name == "nt", reason="signals")
    def test_interrupted_keeps_what_is_done_and_goes_on(self, tmp_path: Path):
        many = tmp_path / "many"
        many.mkdir()
        for n in range(96):
            Image.new("RGB", (1000, 800), (n, 255 - n, 40)).save(many / f"{n:03}.png", compress_level=1)
        env = os.environ | {"MMSEARCH_MODEL": "toy", "MMSEARCH_LIBRARY": str(tmp_path / "index_data")}
        process = subprocess.Popen(
            [*MMSEARCH, "ingest", "--json", many], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for line in process.stdout:  # until some are saved
            event = json.loads(line)
            if event["event"] == "progress" and sum(event["items"].values()) > 0:
                break
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 130, stderr
        assert "run the same command to continue" in stderr and "Traceback" not in stderr
        kept = json.loads(stdout.splitlines()[-1])
        done = run("ingest", "--json", many, library=tmp_path / "index_data")
        rest = json.loads(done.stdout.splitlines()[-1])
        assert 0 < kept["items"]["image"] < 96
        assert kept["items"]["image"] + rest["items"]["image"] == 96


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo among what is not read: two documents, a raw photo, a link to a folder, an ignored file, another library."""
    folder = tmp_path_factory.mktemp("mixed")
    Image.new("RGB", (60, 60), "red").save(folder / "r.png")
    for name in ("a.docx", "b.docx", "c.jxl", "d.tmp"):
        (folder / name).write_bytes(b"\x01 what no reader takes")
    (folder / ".mmsearchignore").write_text("*.tmp\n")
    (folder / "link").symlink_to(folder.parent)
    (folder / "other").mkdir()
    (folder / "other" / "catalog.sqlite3").touch()
    return folder


class TestNothingIsLeftOutWithoutAWord:
    def test_the_run_and_status_say_how_many_and_errors_lists_them(self, mixed: Path, tmp_path: Path):
        library = mixed / "index_data"
        done = run("ingest", mixed, library=library)
        told = (
            "3 files of types that are not read (2 .docx, 1 .jxl), 1 link, 1 ignored path, 1 hidden or system file, "
            "1 folder of the library itself, 1 folder that looks like a library of mmsearch"
        )
        way_out = f"left out: {mixed / 'other'}: it holds a catalog.sqlite3, as a library of mmsearch does: if it is none, rename that file"
        assert done.returncode == 0, done.stderr
        assert f"left out: {told}; `mmsearch errors --skipped` lists them" in done.stderr
        assert way_out in done.stderr and f"{library}: it holds" not in done.stderr, (
            "nobody is told to rename what is in use"
        )
        assert f"left out  {told}\n" in run("status", library=library).stdout
        listed = run("errors", "--skipped", library=library)
        assert listed.returncode == 0 and told in listed.stderr
        rows = dict(line.split("  ")[:2] for line in listed.stdout.splitlines())
        assert {Path(path).name: reason for path, reason in rows.items()} == {
            "a.docx": "unsupported", "b.docx": "unsupported", "c.jxl": "unsupported", "link": "link", "d.tmp": "ignored",
            ".mmsearchignore": "hidden", "other": "library", "index_data": "own",
        }  # fmt: skip
        record = json.loads(run("errors", "--skipped", "--json", library=library).stdout)
        assert record["reasons"]["unsupported"] == 3 and len(record["listed"]) == 8
        (mixed / "a.docx").unlink()
        assert "2 files of types that are not read (1 .docx, 1 .jxl)" in run("ingest", mixed, library=library).stderr
        assert run("errors", library=library).returncode == 0

    def test_nothing_to_do_says_why(self, mixed: Path, tmp_path: Path):
        library, empty = tmp_path / "index_data", tmp_path / "empty"
        empty.mkdir()
        done = run("ingest", empty, library=library)
        assert (done.returncode, done.stderr) == (0, "nothing to do: there are no files\n")
        done = run("ingest", mixed / "b.docx", library=library)
        assert done.returncode == 0
        assert done.stderr.splitlines()[0] == "nothing to do: no file there can be indexed"
        assert "left out: 1 file of a type that is not read (1 .docx)" in done.stderr
        done = run("query", "red", library=library)
        assert (done.returncode, done.stdout) == (1, "")
        assert "is empty: `mmsearch ingest FOLDER` fills it" in done.stderr

    def test_failures_are_not_called_nothing(self, tmp_path: Path):
        library, folder = tmp_path / "index_data", tmp_path / "broken"
        folder.mkdir()
        (folder / "zero.pdf").touch()
        done = run("ingest", folder, library=library)
        assert (done.returncode, done.stderr.splitlines()[:2]) == (4, ["1 PDF (0 pages)", "1 file failed"])

    def test_one_of_a_thing_is_singular(self, tmp_path: Path):
        library, folder = tmp_path / "index_data", tmp_path / "photos"
        folder.mkdir()
        Image.new("RGB", (300, 200), "red").save(folder / "red.png")
        run("ingest", folder, library=library)
        assert run("query", "red", library=library).stderr.startswith("1 of 1 item · ")
        assert "no good match in 1 item;" in run("query", "red", "--min-relevance", "1", library=library).stderr

    def test_a_photo_that_is_cut_short_is_found_and_noted(self, tmp_path: Path):
        library, folder = tmp_path / "index_data", tmp_path / "photos"
        folder.mkdir()
        Image.effect_noise((300, 200), 90).save(folder / "cut.jpg")
        content = (folder / "cut.jpg").read_bytes()
        (folder / "cut.jpg").write_bytes(content[: len(content) * 3 // 4])
        done = run("ingest", folder, library=library)
        assert done.returncode == 0 and "1 photo is cut short" in done.stderr
        assert "damaged: the file is cut short" in run("show", folder / "cut.jpg", library=library).stdout


class TestQuery:
    def test_json_records(self, folder: Path, library: Path):
        (first, *_) = hits_of(run("query", "quarterly revenue", "--kind", "pdf", "--format", "json", library=library))
        assert first["schema"] == 1 and first["rank"] == 1 and first["kind"] == "page"
        assert first["path"] == str(folder / "report.pdf") and first["page"] == 1
        assert "revenue" in first["snippet"] and 0 <= first["relevance"] <= 1
        assert set(first["matched_by"]) <= {"dense", "text"}

    def test_words_without_quotes(self, folder: Path, library: Path):
        options = ["--kind", "pdf", "--format", "json"]
        quoted = hits_of(run("query", "hiring plans next winter", *options, library=library))
        unquoted = hits_of(run("query", "hiring", "plans", *options, "next", "winter", library=library))
        assert unquoted == quoted and quoted[0]["page"] == 2

    def test_table_and_footer(self, library: Path):
        done = run("query", "quarterly revenue", "--kind", "page", "-k", 1, library=library)
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()
        assert "report.pdf  p.1" in line and "revenue" in line
        assert " of 2 items · " in done.stderr and "ms (model " in done.stderr

    def test_clip_names_its_span(self, library: Path):
        hits = hits_of(
            run("query", "blue", "--kind", "video", "--format", "json", "--min-relevance", 0, library=library)
        )
        assert (hits[0]["start_s"], hits[0]["end_s"]) == (pytest.approx(3.0), pytest.approx(6.0))
        done = run("query", "blue", "--kind", "video", "--min-relevance", 0, library=library)
        assert "00:00:03–00:00:06" in done.stdout.splitlines()[0]

    def test_picture_as_the_query(self, folder: Path, library: Path, tmp_path: Path):
        Image.new("RGB", (64, 64), (10, 250, 10)).save(tmp_path / "query.webp")
        (hit, *_) = hits_of(
            run("query", "--image", tmp_path / "query.webp", "--kind", "image", "--format", "json", library=library)
        )
        assert hit["path"] == str(folder / "g.png")

    def test_a_file_that_is_no_picture_is_one_line(self, folder: Path, library: Path):
        done = run("query", "--image", folder / "report.pdf", library=library)
        assert done.returncode == 2 and done.stdout == ""
        assert len(done.stderr.splitlines()) == 1 and "report.pdf" in done.stderr

    def test_more_like_an_item_leaves_it_out(self, library: Path):
        (red, *_) = hits_of(
            run("query", "red", "--kind", "photo", "--format", "json", "--min-relevance", 0, library=library)
        )
        options = ["--kind", "image,clip", "--format", "json", "--min-relevance", 0]
        like = hits_of(run("query", "--like", red["id"], *options, library=library))
        assert red["id"] not in [hit["id"] for hit in like]
        assert like[0]["kind"] == "clip" and like[0]["start_s"] == 0  # the red scene

    def test_the_table_shows_ids(self, library: Path):
        (hit,) = hits_of(run("query", "hiring plans", "--kind", "page", "-k", 1, "--format", "json", library=library))
        (line,) = run("query", "hiring plans", "--kind", "page", "-k", 1, library=library).stdout.splitlines()
        assert line.split()[1] == str(hit["id"])

    def test_filters(self, folder: Path, library: Path):
        def found(*options: object) -> set[str]:
            done = run("query", "red", "--format", "jsonl", "--min-relevance", 0, *options, library=library)
            return {Path(json.loads(line)["path"]).name for line in done.stdout.splitlines()}

        assert found("--path", "*.png") == {"r.png", "g.png", "b.png"}
        assert found("--path", "*.png", "--after", "2999") == set()
        assert found("--path", "*.png", "--before", "1999-05") == set()
        everything = {"r.png", "g.png", "b.png"}
        for asked in ("yesterday", "last month", "2024-05", "3 days ago"):
            assert found("--path", "*.png", "--after", asked) == everything
            assert found("--path", "*.png", "--before", asked) == set()
        assert found("--path", "*.png", "-k", 1) == {"r.png"}
        assert len(found("--path", "*.png", "-k", 3, "--offset", 1)) == 2

    def test_no_good_match_is_an_answer(self, library: Path):
        done = run("query", "zebra submarine", "--kind", "page", library=library)
        assert (done.returncode, done.stdout) == (1, "")
        assert "no good match in 2 items" in done.stderr
        assert run("query", "zebra submarine", "--format", "json", "--kind", "page", library=library).stdout == "[]\n"

    def test_what_is_kept_away(self, folder: Path, library: Path):
        def names(*arguments: object) -> list[str]:
            done = run("query", *arguments, "--format", "jsonl", "--min-relevance", 0, library=library)
            return [Path(json.loads(line)["path"]).name for line in done.stdout.splitlines()]

        assert names("revenue")[0] == "report.pdf"
        for arguments in (
            ["revenue -report"],
            ["revenue", "--not", "report"],
            ["revenue", "--not", "x", "--not", "report"],
        ):
            assert "report.pdf" not in names(*arguments) and "r.png" in names(*arguments)
        line = '{"query": "revenue", "not": ["report"]}'
        done = run("query", "--queries", "-", "--min-relevance", 0, stdin=line, library=library)
        (answer,) = map(json.loads, done.stdout.splitlines())
        assert answer["hits"] and not [hit for hit in answer["hits"] if hit["path"].endswith("report.pdf")]

    def test_paths_end_with_nul(self, folder: Path, library: Path):
        done = run("query", "revenue", "--kind", "page", "--print0", library=library)
        assert done.stdout == f"{folder / 'report.pdf'}\0"

    def test_many_queries(self, folder: Path, library: Path):
        lines = [
            "quarterly revenue",
            '{"query": "green", "kind": "photo", "k": 1}',
            "{broken",
            '{"image": "/nowhere.png"}',
        ]
        done = run("query", "--queries", "-", "--min-relevance", 0, stdin="\n".join(lines), library=library)
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert [answer["query"] for answer in answers] == ["quarterly revenue", "green", "{broken", ""]
        assert answers[0]["hits"][0]["path"] == str(folder / "report.pdf")
        assert [hit["path"] for hit in answers[1]["hits"]] == [str(folder / "g.png")]
        assert "error" in answers[2] and "/nowhere.png" in answers[3]["error"]
        assert done.returncode == 4 and "Traceback" not in done.stderr

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "say what you look for"),
            (["red", "--kind", "sound"], "'sound' is no kind"),
            (["red", "--after", "soon"], "'soon' is no date"),
            (["red", "-k", "0"], "-k"),
            (["--", "-red"], "beside what is to be left out"),
        ],
        ids=["nothing asked", "kind", "date", "k", "only what is left out"],
    )
    def test_usage(self, arguments: list[str], said: str, library: Path):
        done = run("query", *arguments, library=library)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr

    def test_a_device_that_is_not_there(self, library: Path):
        for options, told in (
            (["--device", "cuda:99"], {}),
            ([], {"MMSEARCH_DEVICE": "cuda:99", "MMSEARCH_MODEL": "mini"}),
        ):
            done = run("query", "red", *options, library=library, **told)
            assert (done.returncode, done.stdout) == (2, "")
            (line,) = done.stderr.splitlines()
            assert "no usable device 'cuda:99'" in line and "it has cpu" in line and "fault" not in line

    def test_no_library(self, tmp_path: Path):
        done = run("query", "red", library=tmp_path)
        assert (done.returncode, done.stdout) == (3, "")
        assert len(done.stderr.splitlines()) == 1 and "mmsearch ingest" in done.stderr

    def test_closed_pipe_is_quiet(self, library: Path):
        command = f"{sys.executable} -P -m mmsearch query red --min-relevance 0 --format jsonl | true"
        env = os.environ | {"MMSEARCH_MODEL": "toy", "MMSEARCH_LIBRARY": str(library)}
        done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True)
        assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_utf8_or_try_to_steer_the_terminal(tmp_path: Path):
    folder = tmp_path / "odd"
    folder.mkdir()
    latin, steering = os.fsencode(folder) + b"/caf\xe9 red.png", os.fsencode(folder) + b"/a\x1b[31m\nb.png"
    Image.new("RGB", (40, 40), "red").save(folder / "x.png")
    content = (folder / "x.png").read_bytes()
    (folder / "x.png").unlink()
    Path(os.fsdecode(latin)).write_bytes(content)
    Path(os.fsdecode(steering)).write_bytes(content)
    library = tmp_path / "index_data"
    assert run("ingest", folder, library=library).returncode == 0
    asked = ["query", "red", "--min-relevance", 0, "--all-copies"]
    by_nul = run(*asked, "--print0", library=library).stdout
    assert {os.fsencode(name) for name in by_nul.split("\0") if name} == {latin, steering}
    table = run(*asked, library=library)
    assert table.returncode == 0 and len(table.stdout.splitlines()) == 2 and "\x1b" not in table.stdout
    assert "a\\x1b[31m\\nb.png" in table.stdout
    records = json.loads(run(*asked, "--format", "json", library=library).stdout)
    assert {os.fsencode(record["path"]) for record in records} == {latin, steering}


class TestQueryOpens:
    def test_a_hit_with_the_desktops_program(self, tmp_path: Path):
        library, things, tools = tmp_path / "index_data", tmp_path / "things", tmp_path / "tools"
        for folder in (things, tools):
            folder.mkdir()
        Image.new("RGB", (64, 48), (200, 20, 20)).save(things / "tomato.png")
        opener = tools / "xdg-open"
        opener.write_text(f'#!/bin/sh\necho "$@" > {tools / "told"}\n')
        opener.chmod(0o755)
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        assert run("ingest", things, library=library).returncode == 0
        done = run("query", "tomato", "--open", 1, library=library, PATH=path)
        assert done.returncode == 0, done.stderr
        until = time.monotonic() + 60  # it is not waited for
        while not (tools / "told").exists() or not (tools / "told").read_text():
            assert time.monotonic() < until
            time.sleep(0.05)
        assert (tools / "told").read_text().strip() == str(things / "tomato.png")

        done = run("query", "tomato", "--open", 2, library=library, PATH=path)
        assert done.returncode == 2 and "no more than 1 hit" in done.stderr
        done = run("query", "tomato", "--open", 1, library=library, PATH=str(things))
        assert done.returncode == 4 and "tomato.png cannot be opened" in done.stderr
        assert f"{things}\n" in run("status", library=library).stdout
        things.rename(tmp_path / "elsewhere")
        done = run("query", "tomato", "--open", 1, library=library, PATH=path)
        assert done.returncode == 4 and f"{things / 'tomato.png'} is not there now" in done.stderr
        assert f"{things} (nothing is there now)" in run("status", library=library).stdout
        assert json.loads(run("status", "--json", library=library).stdout)["roots_away"] == [str(things)]


class TestLookingInto:
    def test_status(self, library: Path):
        status = json.loads(run("status", "--json", library=library).stdout)
        assert status["items"] == {"page": 2, "image": 3, "clip": 2}
        said = run("status", library=library).stdout
        assert "2 pages" in said and "3 photos" in said and "2 clips" in said and "1 file failed" in said

    def test_errors_names_file_and_reason(self, folder: Path, library: Path):
        done = run("errors", library=library)
        assert done.returncode == 4 and str(folder / "broken.pdf") in done.stdout
        (row,) = json.loads(run("errors", "--json", library=library).stdout)
        assert row["path"] == str(folder / "broken.pdf") and row["type"] == "CorruptFile" and row["reason"]

    def test_retry_tries_again(self, folder: Path, tmp_path: Path):
        library, things = tmp_path / "index_data", tmp_path / "things"
        things.mkdir()
        (things / "late.pdf").write_bytes(b"%PDF-1.7\nnot yet")
        assert run("ingest", things, library=library).returncode == 4
        assert run("errors", "--retry", library=library).returncode == 4
        write_pdf(things / "late.pdf", "here now")
        assert run("errors", "--retry", library=library).returncode == 0
        assert run("errors", library=library).returncode == 0
        assert run("query", "here now", "--format", "paths", library=library).stdout == f"{things / 'late.pdf'}\n"

    def test_show(self, folder: Path, library: Path):
        (hit, *_) = hits_of(run("query", "revenue", "--kind", "page", "--format", "json", library=library))
        item = json.loads(run("show", hit["id"], "--json", library=library).stdout)
        assert item["text"].strip() == "quarterly revenue grew strongly" and item["page"] == 1
        assert Path(item["preview"]).read_bytes()[8:12] == b"WEBP"
        assert "report.pdf  p.1  page" in run("show", hit["id"], library=library).stdout

    def test_an_item_is_named_by_its_file(self, folder: Path, library: Path):
        def shown(named: object) -> tuple:
            done = run("show", named, "--json", library=library)
            assert done.returncode == 0, done.stderr
            item = json.loads(done.stdout)
            return Path(item["path"]).name, item["page"], item["start_s"]

        assert shown(folder / "report.pdf:2") == ("report.pdf", 2, None)
        assert shown(f"{folder}/film.mp4@1") == ("film.mp4", None, 0.0)
        assert shown(f"{folder}/film.mp4@00:00:04.5") == ("film.mp4", None, pytest.approx(3.0))
        assert shown(folder / "r.png") == ("r.png", None, None)
        whole = run("show", folder / "report.pdf", library=library)
        assert "report.pdf  p.1  page" in whole.stdout and "first of 2 items" in whole.stderr
        like = ["--format", "json", "--min-relevance", 0, "--kind", "image,clip"]
        found = hits_of(run("query", "--like", folder / "film.mp4@4", *like, library=library))
        assert Path(found[0]["path"]).name == "b.png"

    @pytest.mark.parametrize("named", ["999999", "report.pdf:3", "film.mp4@99", "nowhere.pdf:1", "9" * 30])
    def test_what_no_item_is_named_has_one_exit_code(self, named: str, folder: Path, library: Path):
        named = named if named.isdigit() else str(folder / named)
        for command in (["show"], ["query", "--like"], ["remove"]):
            done = run(*command, named, library=library)
            assert (done.returncode, done.stdout) == (1, "")
            assert named in done.stderr and len(done.stderr.splitlines()) == 1

    def test_remove_takes_out_of_the_index_only(self, tmp_path: Path):
        library, things = tmp_path / "index_data", tmp_path / "things"
        things.mkdir()
        write_pdf(things / "a.pdf", "alpha particles")
        write_pdf(things / "b.pdf", "beta particles")
        assert run("ingest", things, library=library).returncode == 0
        assert run("remove", things / "a.pdf", library=library).returncode == 0
        assert (things / "a.pdf").exists()
        done = run("query", "particles", "--format", "paths", "--min-relevance", 0, library=library)
        assert done.stdout.split() == [str(things / "b.pdf")]
        assert run("remove", things / "none.pdf", library=library).returncode == 1
        done = run("remove", things / "b.pdf:1", library=library)
        assert done.returncode == 0 and "1 item of" in done.stderr and "b.pdf" in done.stderr
        assert json.loads(run("status", "--json", library=library).stdout)["items"]["page"] == 0
