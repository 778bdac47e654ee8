"""Walking folders: what is taken, what is passed over, what is reported, and what is not even opened."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ingest import scan
from ingest.scan import find_sources, resolve_roots
from mmsearch.items import Source
from tests import samples

JPEG = b"\xff\xd8\xff\xe0"


def make(folder: Path, *names: str, content: bytes = b"") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(JPEG + content + name.encode())


def names(result: scan.ScanResult, folder: Path) -> list[str]:
    return [str(source.path.relative_to(folder)) for source in result.sources]


def remembered(result: scan.ScanResult) -> dict[bytes, Source]:
    """As a catalog knows these files once they have not been changed for a while."""
    return {
        os.fsencode(source.path): replace(source, ctime_ns=source.path.stat().st_ctime_ns) for source in result.sources
    }


def test_sources_carry_hash_size_and_time(tmp_path):
    make(tmp_path, "b/two.jpg", "a.jpg")
    result = find_sources([tmp_path])
    assert names(result, tmp_path) == ["a.jpg", "b/two.jpg"]
    source = result.sources[0]
    status = (tmp_path / "a.jpg").stat()
    assert source.sha256 == hashlib.sha256((tmp_path / "a.jpg").read_bytes()).hexdigest()
    assert (source.size_bytes, source.modified_ns) == (status.st_size, status.st_mtime_ns)
    assert result.roots == [tmp_path] and result.opened == 2


def test_known_files_are_not_opened(tmp_path, monkeypatch):
    make(tmp_path, "a.jpg", "b.jpg")
    known = remembered(find_sources([tmp_path]))
    (tmp_path / "b.jpg").write_bytes(JPEG + b"longer than before")
    opened = []
    monkeypatch.setattr(scan, "sniff", lambda path: opened.append(path.name) or "jpeg")
    result = find_sources([tmp_path], known)
    assert opened == ["b.jpg"] and result.opened == 1
    assert result.sources[0] == known[os.fsencode(tmp_path / "a.jpg")]
    assert result.sources[1].sha256 != known[os.fsencode(tmp_path / "b.jpg")].sha256


def test_ten_thousand_known_files_take_less_than_two_seconds(tmp_path):
    for folder in range(20):
        (tmp_path / f"{folder}").mkdir()
        for number in range(500):
            (tmp_path / f"{folder}" / f"{number}.jpg").write_bytes(JPEG)
    known = remembered(find_sources([tmp_path]))
    began = time.process_time()  # the processor's, whoever else keeps it busy
    result = find_sources([tmp_path], known)
    assert len(result.sources) == 10_000 and result.opened == 0
    assert time.process_time() - began < 2.0


def test_junk_and_hidden_names_are_passed_over(tmp_path):
    make(
        tmp_path,
        "a.jpg", "._a.jpg", ".DS_Store", "Thumbs.db", ".hidden.jpg", ".git/b.jpg", "@eaDir/c.jpg", "__MACOSX/d.jpg",
    )  # fmt: skip
    result = find_sources([tmp_path])
    assert names(result, tmp_path) == ["a.jpg"]
    assert result.left_out.reasons == {"hidden": 7}


def test_unsupported_content_is_named(tmp_path):
    (tmp_path / "notes.docx").write_text("hello")
    (tmp_path / "code.py").write_text("print()")
    (tmp_path / "odd").write_bytes(b"\0\1\2")
    make(tmp_path, "photo")
    result = find_sources([tmp_path])
    assert names(result, tmp_path) == ["photo"]
    assert result.left_out.reasons == {"unsupported": 3}
    assert result.left_out.suffixes == {".docx": 1, ".py": 1, "": 1}
    assert {one.path.name for one in result.left_out.listed} == {"notes.docx", "code.py", "odd"}


def test_what_belongs_to_a_video_is_not_left_out(tmp_path):
    make(tmp_path, "talk.mp4", "b.jpg")
    for name in ("talk.en.srt", "talk.mp4.srt", "b.jpg.xmp", "b.xmp", "alone.srt"):
        (tmp_path / name).write_text("1")
    found = find_sources([tmp_path]).left_out
    assert [one.path.name for one in found.listed] == ["alone.srt"]


def test_what_is_read_with_a_file_is_not_left_out_whatever_its_case_dots_and_folder(tmp_path):
    (tmp_path / "Subs").mkdir()
    make(tmp_path, "my.holiday.film.mp4", "B.jpg", "DJI_0001.MP4")
    read = ("my.holiday.film.en.forced.srt", "Subs/dji_0001.SRT", "b.XMP", "Subs/my.holiday.film.en.srt")
    for name in (*read, "Subs/other.srt", "my.xmp"):
        (tmp_path / name).write_text("1")
    found = find_sources([tmp_path]).left_out
    assert sorted(one.path.name for one in found.listed) == ["my.xmp", "other.srt"]


def test_only_json_of_takeout_goes_with_its_photo(tmp_path):
    make(tmp_path, "a.jpg", "b(1).jpg", "c.jpg", "d" * 60 + ".jpg")
    for name in ("a.jpg.json", "b.jpg.supplemental-metad(1).json", "d" * 46 + ".json", "gone.jpg.json"):
        (tmp_path / name).write_text('{"photoTakenTime": {"timestamp": "1433152800"}}')
    (tmp_path / "c.jpg.json").write_text('{"tags": ["cat"]}')
    found = find_sources([tmp_path]).left_out
    assert sorted(one.path.name for one in found.listed) == ["c.jpg.json", "gone.jpg.json"]


def test_folders_of_mmsearch_are_named(tmp_path):
    make(tmp_path, "a.jpg", "mine/b.jpg", "other/c.jpg")
    (tmp_path / "other" / "catalog.sqlite3").touch()
    found = find_sources([tmp_path], library_folder=tmp_path / "mine").left_out
    assert [(one.path, one.reason) for one in found.listed] == [
        (tmp_path / "other", "library"), (tmp_path / "mine", "own"),
    ]  # fmt: skip


def test_what_promises_something_is_taken_for_its_error(tmp_path):
    (tmp_path / "notes.docx").write_text("hello")
    (tmp_path / "broken.jpg").write_text("no picture")
    (tmp_path / "empty.pdf").touch()
    assert names(find_sources([tmp_path]), tmp_path) == ["broken.jpg", "empty.pdf"]
    named = find_sources([tmp_path / "notes.docx"])
    assert not named.sources and named.left_out.suffixes == {".docx": 1}


def test_ignore_files_nest_and_can_take_back(tmp_path):
    make(tmp_path, "a.jpg", "raw/b.jpg", "raw/keep/c.jpg", "out/d.jpg", "out/e.png", "x/out/f.jpg", "x/best.png")
    (tmp_path / ".mmsearchignore").write_text("# comment\n/out/\n*.png\nraw/*\n!raw/keep/\n")
    (tmp_path / "x" / ".mmsearchignore").write_text("!best.png\n")
    result = find_sources([tmp_path])
    assert names(result, tmp_path) == ["a.jpg", "raw/keep/c.jpg", "x/best.png", "x/out/f.jpg"]
    assert result.left_out.reasons["ignored"] == 2


def test_an_ignore_file_that_means_harm_costs_no_time(tmp_path, caplog):
    """It comes with the folder: a pipe in its place, a pattern that takes minutes to match, more of them than anybody writes."""
    long = "a" * 240
    make(tmp_path, "pipe/a.jpg", f"slow/{long}.jpg", "slow/b.jpg", "many/a.jpg", "large/a.jpg", "link/a.jpg")
    os.mkfifo(tmp_path / "pipe" / ".mmsearchignore")
    (tmp_path / "link" / ".mmsearchignore").symlink_to("/dev/zero")
    (tmp_path / "slow" / ".mmsearchignore").write_text("*a" * 12 + "*c\nb.*\n")
    (tmp_path / "many" / ".mmsearchignore").write_text("b.jpg\n" * scan.MAX_IGNORE_LINES + "a.jpg\n")
    (tmp_path / "large" / ".mmsearchignore").write_text("#" * scan.MAX_IGNORE_BYTES + "\na.jpg\n")
    began = time.process_time()
    result = find_sources([tmp_path])
    assert time.process_time() - began < 5
    assert names(result, tmp_path) == ["large/a.jpg", "link/a.jpg", "many/a.jpg", "pipe/a.jpg", f"slow/{long}.jpg"]
    told = "\n".join(caplog.messages)
    assert "slow/.mmsearchignore, line 1: more than 3 wildcards" in told
    assert "pipe/.mmsearchignore cannot be used" in told and "link/.mmsearchignore cannot be used" in told
    assert told.count("are used") == 2


def test_the_wildcards_that_are_left_are_quick(tmp_path):
    """The slowest line that is taken, on the longest name, in a deep folder."""
    deep = tmp_path.joinpath(*["a" * 250] * 8)
    make(deep, "a" * 250)
    (tmp_path / ".mmsearchignore").write_text("*a" * (scan.MAX_WILDCARDS - 1) + "*c\n")
    began = time.process_time()
    assert len(find_sources([tmp_path]).sources) == 1
    assert time.process_time() - began < 2


def test_a_pipe_that_takes_a_files_place_after_the_walk_saw_it_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(OSError, match="not a regular file"):
        scan.hash_file(tmp_path / "a.jpg")


def test_include_and_exclude(tmp_path):
    make(tmp_path, "a.jpg", "talks/b.jpg", "talks/old/c.jpg", "d.jpeg")
    assert names(find_sources([tmp_path], include=["*.jpg"], exclude=["talks/old"]), tmp_path) == [
        "a.jpg",
        "talks/b.jpg",
    ]
    assert names(find_sources([tmp_path], exclude=["**/talks/**"]), tmp_path) == ["a.jpg", "d.jpeg"]
    assert names(find_sources([tmp_path], include=["talks"]), tmp_path) == ["talks/b.jpg", "talks/old/c.jpg"]


def test_symlink_loops_end_and_nothing_comes_twice(tmp_path):
    make(tmp_path / "data", "a.jpg", "sub/b.jpg")
    make(tmp_path / "elsewhere", "c.jpg", "d.jpg")
    (tmp_path / "data/sub/loop").symlink_to(tmp_path / "data")
    (tmp_path / "data/double.jpg").symlink_to(tmp_path / "data/a.jpg")
    (tmp_path / "data/dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "data/linked.jpg").symlink_to(tmp_path / "elsewhere/c.jpg")
    (tmp_path / "data/folder").symlink_to(tmp_path / "elsewhere")
    result = find_sources([tmp_path / "data"])
    assert names(result, tmp_path / "data") == ["a.jpg", "linked.jpg", "sub/b.jpg"]
    assert result.left_out.reasons["link"] == 4


def test_roots_are_resolved_and_not_walked_twice(tmp_path, monkeypatch):
    make(tmp_path / "data", "a.jpg", "sub/b.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert resolve_roots(["link", "data/sub", tmp_path / "data", "data/a.jpg"]) == [tmp_path / "data"]
    assert names(find_sources(["link", "data/sub"]), tmp_path) == ["data/a.jpg", "data/sub/b.jpg"]


def test_the_library_is_never_ingested(tmp_path):
    make(tmp_path, "a.jpg", "index_data/previews/p.jpg", "other/previews/q.jpg")
    (tmp_path / "other/catalog.sqlite3").touch()
    result = find_sources([tmp_path], library_folder=tmp_path / "index_data")
    assert names(result, tmp_path) == ["a.jpg"]


def test_pipes_and_sockets_are_not_opened(tmp_path):
    import socket

    make(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.jpg"))
        result = find_sources([tmp_path, tmp_path / "pipe.jpg"])
    assert names(result, tmp_path) == ["a.jpg"] and result.left_out.reasons["special"] == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_folders_are_reported(tmp_path):
    make(tmp_path, "a.jpg", "closed/b.jpg")
    (tmp_path / "closed").chmod(0)
    try:
        result = find_sources([tmp_path])
    finally:
        (tmp_path / "closed").chmod(0o755)
    assert names(result, tmp_path) == ["a.jpg"]
    assert result.unreadable == [(tmp_path / "closed", "Permission denied")]


def test_errors_of_the_system_are_reported_not_raised(tmp_path, monkeypatch):
    make(tmp_path, "a.jpg", "b.jpg", "sub/c.jpg")
    real_scandir, real_hash = os.scandir, scan.hash_file

    def scandir(folder):
        if str(folder).endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return real_scandir(folder)

    def hash_file(path):
        if path.name == "b.jpg":
            raise OSError(5, "Input/output error")
        return real_hash(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(scan, "hash_file", hash_file)
    result = find_sources([tmp_path])
    assert names(result, tmp_path) == ["a.jpg"]
    assert sorted(result.unreadable) == [
        (tmp_path / "b.jpg", "Input/output error"),
        (tmp_path / "sub", "Permission denied"),
    ]
    assert set(result.seen_unreadable()) == {tmp_path / "b.jpg", tmp_path / "sub"}


def test_a_file_that_changes_while_it_is_read_waits_for_the_next_run(tmp_path, monkeypatch):
    make(tmp_path, "a.jpg")
    target = tmp_path / "growing.jpg"
    target.write_bytes(JPEG * 1000)
    monkeypatch.setattr(scan, "HASH_BLOCK_BYTES", 1024)
    real = hashlib.sha256

    class Growing:
        def __init__(self):
            self.inner = real()

        def update(self, block):
            if len(block) == 1024:
                with target.open("ab") as handle:
                    handle.write(b"more")
                os.utime(target, ns=(1, time.time_ns()))
                Growing.update = lambda self, block: self.inner.update(block)
            self.inner.update(block)

        def hexdigest(self):
            return self.inner.hexdigest()

    monkeypatch.setattr(scan.hashlib, "sha256", Growing)
    result = find_sources([tmp_path])
    assert names(result, tmp_path) == ["a.jpg"] and result.changing == [target]
    assert target in result.seen_unreadable()
    assert names(find_sources([tmp_path]), tmp_path) == ["a.jpg", "growing.jpg"]


def test_a_file_that_grows_faster_than_it_is_read_is_left(tmp_path, monkeypatch):
    target = tmp_path / "growing.jpg"
    target.write_bytes(JPEG * 1000)
    monkeypatch.setattr(scan, "HASH_BLOCK_BYTES", 1024)
    real = hashlib.sha256

    class Growing:
        def __init__(self):
            self.inner, self.blocks = real(), 0

        def update(self, block):
            self.blocks += 1
            assert self.blocks <= 4, "read beyond the size it had"
            with target.open("ab") as handle:
                handle.write(bytes(4096))
            self.inner.update(block)

    monkeypatch.setattr(scan.hashlib, "sha256", Growing)
    assert scan.hash_file(target) is None


def test_names_that_are_not_utf8_survive(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9 \xff.jpg"
    with open(raw, "wb") as handle:  # noqa: PTH123
        handle.write(JPEG)
    found = find_sources([tmp_path])
    (source,) = found.sources
    assert os.fsencode(source.path) == raw
    assert source.suffix == ".jpg"
    assert find_sources([tmp_path], remembered(found)).opened == 0


def test_missing_roots_are_told(tmp_path):
    result = find_sources([tmp_path / "gone", tmp_path / "gone.jpg"])
    assert result.gone_roots == [tmp_path / "gone", tmp_path / "gone.jpg"] and not result.sources


def test_an_edit_that_hides_behind_size_and_time_is_seen(tmp_path):
    make(tmp_path, "a.jpg", "b.jpg")
    known = remembered(find_sources([tmp_path]))
    target = tmp_path / "a.jpg"
    before = target.stat()
    target.write_bytes(target.read_bytes()[::-1])
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert target.stat().st_mtime_ns == before.st_mtime_ns and target.stat().st_size == before.st_size
    result = find_sources([tmp_path], known)
    assert result.opened == 1 and result.sources[0].sha256 != known[os.fsencode(target)].sha256
    assert scan.has_changed(known[os.fsencode(target)])


def test_other_rights_or_another_name_are_no_other_content(tmp_path):
    make(tmp_path, "a.jpg", "b.jpg")
    known = remembered(find_sources([tmp_path]))
    (tmp_path / "a.jpg").chmod(0o600)
    (tmp_path / "second.jpg").hardlink_to(tmp_path / "b.jpg")
    result = find_sources([tmp_path], known)
    assert result.opened == 3
    by_path = {os.fsencode(source.path): source for source in result.sources}
    for path, source in known.items():
        assert by_path[path].sha256 == source.sha256 and not scan.has_changed(source)


def test_a_change_time_that_is_not_known_is_no_objection(tmp_path):
    make(tmp_path, "a.jpg")
    ((path, source),) = remembered(find_sources([tmp_path])).items()
    result = find_sources([tmp_path], {path: replace(source, ctime_ns=None)})
    assert result.opened == 0 and result.sources == [source], "filled in"


@pytest.mark.parametrize(
    ("age_ns", "is_settled"), [(10_000_000, False), (500_000_000, True), (-10_000_000, False), (-500_000_000, True)]
)
def test_what_was_changed_a_moment_ago_is_read_again(tmp_path, monkeypatch, age_ns, is_settled):
    make(tmp_path, "a.jpg")
    ctime_ns = (tmp_path / "a.jpg").stat().st_ctime_ns
    monkeypatch.setattr(scan.time, "time_ns", lambda: ctime_ns + age_ns)
    result = find_sources([tmp_path])
    assert result.sources[0].ctime_ns == (ctime_ns if is_settled else scan.UNSETTLED)
    known = {os.fsencode(source.path): source for source in result.sources}
    assert find_sources([tmp_path], known).opened == (0 if is_settled else 1)
    assert not scan.has_changed(result.sources[0])


def test_where_clocks_are_coarse_a_moment_is_longer():
    second = 1_800_000_000 * 10**9

    class Status:
        st_mtime_ns = st_ctime_ns = second

    assert scan._is_unsettled(Status(), second + 1_500_000_000)
    assert not scan._is_unsettled(Status(), second + 2_500_000_000)
    Status.st_ctime_ns += 1
    assert not scan._is_unsettled(Status(), second + 1_500_000_000)


def test_a_file_system_that_makes_change_times_up_costs_reading_only(tmp_path, monkeypatch):
    """Each look at the file gives another one: it is hashed, and it is not called changed."""
    make(tmp_path, "a.jpg")
    known = remembered(find_sources([tmp_path]))
    real_stat, real_fstat, looks = os.stat, os.fstat, iter(range(1, 10**6))

    def with_ctime(status):
        fields = {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}
        return type("Status", (), fields | {"st_ctime_ns": next(looks) * 10**9})()

    monkeypatch.setattr(scan.os, "fstat", lambda handle: with_ctime(real_fstat(handle)))
    first = scan.hash_file(tmp_path / "a.jpg")
    assert first is not None and first.sha256 == known[os.fsencode(tmp_path / "a.jpg")].sha256
    monkeypatch.setattr(
        scan.os,
        "stat",
        lambda path, **terms: (
            with_ctime(real_stat(path, **terms)) if str(path).endswith("a.jpg") else real_stat(path, **terms)
        ),
    )
    assert not scan.has_changed(first)


def test_what_cannot_be_read_is_not_called_changed(tmp_path, monkeypatch):
    make(tmp_path, "a.jpg")
    (source,) = find_sources([tmp_path]).sources
    monkeypatch.setattr(scan, "hash_file", lambda path: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(OSError, match="Input/output error"):
        scan.has_changed(source, read=True)


def test_a_link_stands_for_what_it_leads_to_though_that_is_away(tmp_path):
    make(tmp_path / "disk/photos", "a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "disk/photos")
    result = find_sources([tmp_path / "link"])
    assert (result.roots, result.former) == ([tmp_path / "disk/photos"], [tmp_path / "link"])
    (tmp_path / "disk").rename(tmp_path / "elsewhere")
    result = find_sources([tmp_path / "link"])
    assert (result.roots, result.former) == ([tmp_path / "disk/photos"], [tmp_path / "link"])
    assert result.gone_roots == [tmp_path / "disk/photos"]


def test_folders_with_nothing_in_them_are_told(tmp_path):
    make(tmp_path, "a.jpg", "b/c.jpg")
    (tmp_path / "empty").mkdir()
    assert find_sources([tmp_path]).emptied == [tmp_path / "empty"]


def test_changed_means_other_size_or_time(tmp_path):
    path = samples.photo(tmp_path / "a.png")
    (source,) = find_sources([path]).sources
    assert not scan.has_changed(source)
    os.utime(path, ns=(1, source.modified_ns + 1))
    assert scan.has_changed(source)
    path.unlink()
    assert scan.has_changed(source)
