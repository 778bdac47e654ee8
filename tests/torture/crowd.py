"""Many at once: one writer, many readers, the page, all real processes over one library that changes all the time.

`make torture` runs it for minutes, tests/integration/test_crowd.py for seconds. Every file says of itself what it is: a document's pages
hold its name, its version and how many pages that version has, so that an answer alone shows whether anything of it is half-written.
The catalog's promise, which is held against every answer: a file that changes is replaced in one step (all pages of one version, never of
two); a file that is new may appear page by page.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

import mmsearch
from mmsearch.catalog import Filters
from mmsearch.embedders.families.toy import ToyEmbedder
from mmsearch.errors import CatalogError
from mmsearch.items import KINDS, EmbedInput, Query
from mmsearch.library import Library
from tests import samples
from tests.torture import kills

WORD = "ledger"
"""Stands on every page, so that one query finds them all."""
LEAST_PAGES = {"big": 38, "small": 2}
"""A big document is longer than a batch of the pipeline: without the promise it would be seen half-written."""
PAGE_TEXT = re.compile(rf"{WORD} (\w+) version (\d+) sheet (\d+) of (\d+)")
ALL = {"k": 10_000, "min_relevance": 0.0}
EDITED_MEANWHILE = 0.3
"""Share of the ingests during which a file changes."""
LARGEST_LOG_BYTES = 64 << 20
LEAKED_BYTES, LEAKED_FILES = 48 << 20, 8
"""So much more memory, or so many more open files, than after the first third of its time are too many for a reader."""

TURNED = """
import importlib.abc, importlib.util, sys

class _After(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "mmsearch.embedders":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            load = module.load_embedder
            def load_either(name="mini", **options):
                if str(name) != "turned":
                    return load(name, **options)
                import numpy as np
                from mmsearch.embedders.families.toy import ToyEmbedder
                class Turned(ToyEmbedder):
                    model_key = "turned-1"
                    def _encode(self, inputs):
                        return np.roll(super()._encode(inputs), 7, axis=1)
                return Turned()
            module.load_embedder = load_either
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, _After())
"""
"""A second model for every process of the environment: the toy with its axes turned, so that its vectors are all others."""


# ---------------------------------------------------------------- the files


def page_text(name: str, version: int, number: int, count: int) -> str:
    return f"{WORD} {name} version {version} sheet {number} of {count}"


def page_count(name: str, version: int) -> int:
    return LEAST_PAGES[re.sub(r"\d", "", name).removeprefix("loose")] + version % 3


class Files:
    """A folder that changes. Names that begin with "loose" come, go and move; the others are always there, in some version."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.draw = folder, random.Random(seed)
        self.versions: Counter[str] = Counter()
        self.away = folder.with_name("away")
        self.steps: Counter[str] = Counter()
        for place in (folder / "a", folder / "b", self.away):
            place.mkdir(parents=True)
        for name in ("big1", "small1", "small2", "loosebig1", "loosesmall1", "loosesmall2"):
            self.write(folder / "a" / f"{name}.pdf")
        for name in ("photo1", "photo2", "loosephoto1", "loosephoto2", "loosephoto3"):
            self.write(folder / "a" / f"{name}.png")

    def write(self, file: Path) -> None:
        """The next version of a file, in its place at once."""
        name = file.stem
        self.versions[name] += 1
        version, new = self.versions[name], self.away / f"new{file.suffix}"
        if file.suffix == ".pdf":
            count = page_count(name, version)
            samples.pdf(new, [page_text(name, version, number, count) for number in range(1, count + 1)])
        else:
            samples.photo(new, tuple(self.draw.randrange(256) for _ in range(3)), size=(96, 64))
        new.replace(file)

    def disturb(self, times: int) -> None:
        for _ in range(times):
            what = self.draw.choice(("edit", "edit", "move", "delete", "restore", "add"))
            loose = sorted(self.folder.rglob("loose*.*"))
            if what == "edit":
                self.write(self.draw.choice(sorted(self.folder.rglob("*.*"))))
            elif what == "add":
                self.write(self.folder / "b" / f"loosesmall{3 + self.draw.randrange(4)}.pdf")
            elif what == "restore" and (gone := sorted(self.away.glob("loose*.*"))):
                file = self.draw.choice(gone)
                if not list(self.folder.rglob(file.name)):
                    file.replace(self.folder / "b" / file.name)
            elif what == "move" and loose:
                file = self.draw.choice(loose)
                file.replace(self.folder / ("b" if file.parent.name == "a" else "a") / file.name)
            elif what == "delete" and len(loose) > 3:
                file = self.draw.choice(loose)
                file.replace(self.away / file.name)
            else:
                continue
            self.steps[what] += 1

    def always_there(self) -> set[str]:
        """Files of which every answer must hold one version wholly."""
        return {
            str(self.folder / "a" / name)
            for name in ("big1.pdf", "small1.pdf", "small2.pdf", "photo1.png", "photo2.png")
        }


# ---------------------------------------------------------------- what an answer must be


@dataclass(frozen=True, slots=True)
class Found:
    """A hit, from whichever reader."""

    rank: int
    id: int
    kind: str
    path: str
    page: int | None
    text: str
    score: float | None
    relevance: float


def problems_of(hits: Sequence[Found], always_there: Iterable[str], *, is_cut: bool = False) -> list[str]:
    """What cannot be in one answer to WORD; `is_cut`: it holds only the best hits."""
    found = []
    if [hit.rank for hit in hits] != list(range(1, len(hits) + 1)):
        found.append(f"ranks {[hit.rank for hit in hits][:50]}")
    if len({hit.id for hit in hits}) < len(hits):
        found.append("an item twice")
    if hits != sorted(hits, key=lambda hit: -hit.relevance):
        found.append("not by falling relevance")
    by_path: defaultdict[str, list[Found]] = defaultdict(list)
    for hit in hits:
        if hit.score is None or not math.isfinite(hit.score) or not 0 <= hit.relevance <= 1:
            found.append(f"{hit.path}: score {hit.score}, relevance {hit.relevance}")
        if hit.kind == "page":
            by_path[hit.path].append(hit)
    for path, pages in by_path.items():
        said = [PAGE_TEXT.search(hit.text) for hit in pages]
        if None in said:
            found.append(f"{path}: a page without its text")
            continue
        versions = {match[2] for match in said if match is not None}
        if len(versions) > 1:
            found.append(f"{path}: versions {sorted(versions)} in one answer")
        numbers = Counter(hit.page for hit in pages)
        if any(int(match[3]) != hit.page for match, hit in zip(said, pages, strict=True) if match is not None):
            found.append(f"{path}: pages with the text of others")
        if max(numbers.values()) > 1:
            found.append(f"{path}: page {max(numbers, key=numbers.__getitem__)} twice")
    photos = Counter(hit.path for hit in hits if hit.kind == "image")
    found += [f"{path}: {number} times" for path, number in photos.items() if number > 1]
    for path in () if is_cut else always_there:
        if path.endswith(".png"):
            found += [] if photos[path] else [f"{path}: missing"]
            continue
        pages = by_path[path]
        match = PAGE_TEXT.search(pages[0].text) if pages else None
        if match is None or len(pages) != int(match[4]):
            found.append(f"{path}: {len(pages)} pages of {match[4] if match else '?'} in one answer")
    return found


def from_record(record: Mapping[str, Any]) -> Found:
    return Found(
        record["rank"], record["id"], record["kind"], record["path"], record["page"], record["snippet"], record["score"],
        record["relevance"],
    )  # fmt: skip


def from_hit(hit: mmsearch.Hit) -> Found:
    return Found(
        hit.rank, hit.item.id, hit.item.kind, str(hit.path), hit.item.page_number, hit.item.text, hit.score, hit.relevance
    )  # fmt: skip


# ---------------------------------------------------------------- readers, each a process of its own


@dataclass
class Account:
    """What one of the crowd did and saw."""

    name: str
    done: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def blame(self, said: Iterable[str]) -> None:
        self.problems += [f"{self.name}: {one}" for one in said]
        del self.problems[50:]


def read_on(library: Library, always_there: set[str], until: float, account: Account, seed: int) -> None:
    """One thread of a reader: ask, look, ask again."""
    draw = random.Random(seed)
    while time.monotonic() < until:
        what = draw.choice(("all", "all", "some", "like", "under", "words", "quiet"))
        try:
            if what == "all":
                account.blame(problems_of([from_hit(hit) for hit in library.search(WORD, **ALL)], always_there))
            elif what == "some":
                hits = library.search(f"{WORD} version {draw.randrange(9)}", k=7, offset=7, min_relevance=0)
                look_at_items(library, hits, account)
            elif what == "under":
                hits = library.search(WORD, path="**/a/**", **ALL)
                account.blame(problems_of([from_hit(hit) for hit in hits], always_there))
            elif what == "words":
                hits = library.search(WORD, mode="text", kinds=["page"], **ALL)
                rows = [Found(h.rank, h.item.id, "clip", str(h.path), None, "", 0.0, h.relevance) for h in hits]
                account.blame(problems_of(rows, (), is_cut=True))
            elif what == "like":
                one = library.search(WORD, k=1, offset=draw.randrange(20), min_relevance=0)
                try:
                    hits = library.search(like=one[0].item.id, k=10) if one else []
                except KeyError:
                    hits = []  # gone since
                account.blame(["itself among its like"] if one and one[0].item.id in {h.item.id for h in hits} else [])
            else:
                hold_against_catalog(library, account)
            account.done[what] += 1
        except Exception as error:
            account.blame([f"{what}: {type(error).__name__}: {error}"])
            import traceback

            traceback.print_exc()
        time.sleep(draw.uniform(0, 0.1))


def look_at_items(library: Library, hits: Sequence[mmsearch.Hit], account: Account) -> None:
    """Every hit can be opened: its preview is there, and shows what its vector is of. Or it is gone by now."""
    for hit in hits:
        item = hit.item
        try:
            assert item.preview is not None
            with Image.open(item.preview) as image:
                shown = ToyEmbedder().encode_documents([EmbedInput("", images=(image.convert("RGB"),))])[0]
            _, stored = library.catalog.vectors.of([item.id], ToyEmbedder.model_key)
            if item.kind == "image" and len(stored) and float(stored[0] @ shown) < 0.98:
                account.blame([f"{item.path}: its preview is not what was embedded"])
        except (OSError, AssertionError) as error:
            if library.catalog.items.of([item.id]):
                account.blame([f"{item.path} {item.place}: no preview ({error})"])


def hold_against_catalog(library: Library, account: Account) -> None:
    """If the library stands still meanwhile: exactly its items, each with the cosine of its stored vector, in order."""
    catalog = library.catalog
    before = catalog.state()
    hits = library.search(WORD, mode="dense", **ALL)
    queries = library.model.encode(Query(text=WORD), KINDS)
    expected = {
        int(item): float(vector @ queries[kind])
        for kind in KINDS
        for ids, vectors in catalog.vectors.blocks(str(before[1]), kind)
        for item, vector in zip(ids, vectors, strict=True)
    }
    visible = {item.id for item in catalog.items.of(sorted(expected))}
    allowed = catalog.items.allowed_ids(Filters(path_globs=("**",)), KINDS)
    if catalog.state() != before:
        return
    account.done["held against the catalog"] += 1
    found = {hit.item.id: hit.score for hit in hits}
    if not (set(found) == set(expected) == visible == set(allowed.tolist() if allowed is not None else ())):
        account.blame([f"{len(found)} items found at generation {before[0]}, {len(expected)} there"])
    elif far := [item for item, score in found.items() if score is None or abs(score - expected[item]) > 1e-4]:
        account.blame([f"items {far[:9]} with other scores than their vectors have"])


def reader_process(folder: Path, seconds: float, threads: int, seed: int) -> Account:
    """A program that keeps the library open, with threads of its own; another thread opens it again each time."""
    account, until = Account(f"reader {seed}"), time.monotonic() + seconds
    os.nice(5)  # let the writer get on: what is looked at are its changes
    always_there = set(json.loads(os.environ["CROWD_ALWAYS_THERE"]))

    def open_anew() -> None:
        while time.monotonic() < until:
            try:
                with mmsearch.open(folder) as library:
                    hits = library.search(WORD, **ALL)
                    account.blame(problems_of([from_hit(hit) for hit in hits], always_there))
                    look_at_items(library, hits, account)
                    keys = list(library.catalog.models.dims())
                    try:
                        library.of_model(keys[-1]).search(WORD, k=5)
                    except CatalogError:
                        account.done["asked a model that was just removed"] += 1
                    library.status()
                account.done["opened again"] += 1
            except Exception as error:
                account.blame([f"opened again: {type(error).__name__}: {error}"])
                import traceback

                traceback.print_exc()
            time.sleep(0.1)

    with mmsearch.open(folder) as library:
        crowd = [
            threading.Thread(target=read_on, args=(library, always_there, until, account, seed * 100 + n))
            for n in range(threads)
        ]
        crowd.append(threading.Thread(target=open_anew))
        for thread in crowd:
            thread.start()
        time.sleep(seconds / 3)
        early = own_size()
        for thread in crowd:
            thread.join()
        late = own_size()
    account.figures = {"early_bytes": early[0], "late_bytes": late[0], "early_files": early[1], "late_files": late[1]}
    if late[0] - early[0] > LEAKED_BYTES or late[1] - early[1] > LEAKED_FILES:
        account.blame([f"grew from {early} to {late} bytes and open files"])
    return account


def own_size() -> tuple[int, int]:
    """Resident bytes and open files of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208


# ---------------------------------------------------------------- the crowd


class Crowd:
    """Starts everybody, and gathers what they saw."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.library = folder, folder / "library"
        self.files = Files(folder / "files", seed)
        self.draw = random.Random(seed)
        hook = folder / "hook"
        hook.mkdir()
        (hook / "sitecustomize.py").write_text(TURNED)
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("MMSEARCH_")} | {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(hook), os.environ.get("PYTHONPATH")])),
            "NO_COLOR": "1",
            "OMP_NUM_THREADS": "1",
            "XDG_CONFIG_HOME": str(folder / "config"),
            "CROWD_ALWAYS_THERE": json.dumps(sorted(self.files.always_there())),
        }
        self.accounts: list[Account] = []
        self.largest_wal_bytes = 0
        self.until = 0.0

    def run(self, *arguments: str | Path, ok: Sequence[int] = (0,)) -> subprocess.CompletedProcess[str]:
        """A real command to its end; more than one line, or another code, is an AssertionError."""
        command = [sys.executable, "-P", "-m", "mmsearch", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=300, check=False)
        said = done.stderr.strip()
        is_odd = re.search(r"Traceback|a fault of|is unusable|rebuilt|damaged|database is locked|kept busy", said)
        if done.returncode not in ok or is_odd:
            raise AssertionError(
                f"mmsearch {' '.join(map(str, arguments[:3]))} ended with {done.returncode}: {said[-2000:]}"
            )
        return done

    # ---- those who write

    def write(self, account: Account, *, upkeep: Sequence[str]) -> None:
        """The writer: ingest what has changed, over and over; in between the other commands that write."""
        pending = iter(upkeep)
        while time.monotonic() < self.until:
            self.files.disturb(self.draw.randrange(1, 5))
            try:
                during = threading.Timer(self.draw.uniform(0.2, 1.5), self.files.disturb, (1,))
                if self.draw.random() < EDITED_MEANWHILE:
                    during.start()
                self.command(account, "ingest", self.files.folder)
                during.cancel()
                if during.ident is not None:
                    during.join()
                if (step := next(pending, None)) is not None:
                    self.command(account, *step.split())
                elif upkeep:
                    pending = iter(upkeep)
            except AssertionError as error:
                account.blame([str(error)])

    def command(self, account: Account, *arguments: str | Path) -> None:
        done = self.run(*arguments, "--library", self.library, ok=(0, 3))
        account.done[str(arguments[0]) if done.returncode == 0 else "refused"] += 1
        if done.returncode == 3 and not is_refusal(done.stderr):
            account.blame([done.stderr.strip()])

    def contend(self, account: Account) -> None:
        """Somebody else who wants to write: is let in, or told who writes."""
        while time.monotonic() < self.until:
            time.sleep(self.draw.uniform(1, 5))
            try:
                self.command(account, "ingest", self.files.folder)
            except AssertionError as error:
                account.blame([str(error)])

    # ---- those who read

    def query(self, account: Account) -> None:
        """The real command: it answers, and has nothing to complain of."""
        options = ["--format", "json", "-k", "10000", "--min-relevance", "0", "--library", self.library]
        always_there = self.files.always_there()
        while time.monotonic() < self.until:
            try:
                done = self.run("query", WORD, *options, ok=(0, 1))
                account.done["query"] += 1
                account.blame([done.stderr.strip()] if done.stderr.strip() else [])
                account.blame(problems_of([from_record(one) for one in json.loads(done.stdout)], always_there))
            except AssertionError as error:
                account.blame([str(error)])

    def read(self, account: Account, *, threads: int, seed: int) -> None:
        seconds = max(1.0, self.until - time.monotonic())
        command = [
            sys.executable,
            "-P",
            "-m",
            "tests.torture.crowd",
            self.library,
            str(seconds),
            str(threads),
            str(seed),
        ]
        done = subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=seconds + 120,
            check=False,
        )
        if done.returncode or done.stderr.strip():
            account.blame([f"ended with {done.returncode}: {done.stderr.strip()[-2000:]}"])
        if done.stdout.strip():
            said = json.loads(done.stdout.splitlines()[-1])
            account.done.update(said["done"])
            account.problems += said["problems"]
            account.figures = said["figures"]

    def browse(self, account: Account) -> None:
        """The page in a real browser: queries, cards, a look at items, while everything changes."""
        from playwright.sync_api import expect, sync_playwright

        from tests.e2e.test_page import CHROMIUM, FLAGS, cards, serving

        environment = self.environment | {"MMSEARCH_LIBRARY": str(self.library)}
        with serving(environment) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page(viewport={"width": 1360, "height": 900})
            page.set_default_timeout(60_000)
            number = 0
            while time.monotonic() < self.until:
                number += 1
                try:
                    page.goto(f"{address}/?q={WORD}+{self.draw.randrange(40)}&kinds=page&weaker=1")
                    expect(cards(page).first).to_be_visible(timeout=60_000)
                    if number % 2:
                        cards(page).nth(self.draw.randrange(5)).click()
                        results = page.get_by_role("button", name="Results")
                        gone = page.get_by_text("is not in the library any longer")
                        expect(results.or_(gone).first).to_be_visible(timeout=60_000)
                    wrong = page.locator("[data-testid=stException], [data-testid=stAlert]")
                    account.blame(wrong.all_inner_texts())
                    account.done["page"] += 1
                except Exception as error:
                    account.blame([f"{type(error).__name__}: {error}"[:600]])
            browser.close()

    def watch(self) -> None:
        wal = self.library / "catalog.sqlite3-wal"
        while time.monotonic() < self.until:
            with suppress(FileNotFoundError):
                self.largest_wal_bytes = max(self.largest_wal_bytes, wal.stat().st_size)
            time.sleep(0.01)

    # ---- all of them

    def go(
        self, seconds: float, *, readers: int, threads: int, queries: int, upkeep: Sequence[str], has_page: bool,
        has_rival: bool = True,
    ) -> None:  # fmt: skip
        self.run("ingest", self.files.folder, "--library", self.library, "--model", "toy")
        self.until = time.monotonic() + seconds
        parts: list[tuple[Callable[..., None], str, dict[str, Any]]] = [(self.write, "writer", {"upkeep": upkeep})]
        parts += [(self.contend, "rival", {})] * has_rival
        parts += [(self.query, f"query {n}", {}) for n in range(queries)]
        parts += [(self.read, f"reader {n}", {"threads": threads, "seed": n}) for n in range(readers)]
        parts += [(self.browse, "page", {})] * has_page
        crowd = [threading.Thread(target=self.watch)]
        for part, name, options in parts:
            self.accounts.append(account := Account(name))
            crowd.append(threading.Thread(target=self._guarded, args=(part, account), kwargs=options))
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join()
        self.settle()

    def _guarded(self, part: Callable[..., None], account: Account, **options: Any) -> None:
        try:
            part(account, **options)
        except Exception as error:
            account.blame([f"{type(error).__name__}: {error}"])

    def settle(self) -> None:
        """Afterwards: the library is sound, and answers as one made again from the files."""
        account = Account("afterwards")
        self.accounts.append(account)
        try:
            self.run("models", "use", "toy", "--library", self.library)
            self.run("ingest", self.files.folder, "--library", self.library, "--prune")
            self.run("ingest", self.files.folder, "--library", self.folder / "fresh", "--model", "toy")
            account.blame(kills.faults(self.library))
            if self.largest_wal_bytes > LARGEST_LOG_BYTES:
                account.blame([f"a write-ahead log of {self.largest_wal_bytes:,} bytes"])
            if kills.answers(self.library) != kills.answers(self.folder / "fresh"):
                account.blame(["other answers than a library made again"])
        except AssertionError as error:
            account.blame([str(error)])

    def problems(self) -> list[str]:
        return [problem for account in self.accounts for problem in account.problems]


def is_refusal(said: str) -> bool:
    """Whether the last line names the process which writes; `models use` has said before what it was about to do."""
    return re.search(r"(^|\n)mmsearch: process \d+ is writing to \S+: [^\n]+$", said.strip()) is not None


def summary(crowd: Crowd, seconds: float) -> dict[str, Any]:
    done = sum((account.done for account in crowd.accounts), Counter[str]())
    return {
        "seconds": round(seconds),
        "done": dict(done),
        "changes of files": dict(crowd.files.steps),
        "largest -wal in bytes": crowd.largest_wal_bytes,
        "readers": {account.name: account.figures for account in crowd.accounts if account.figures},
        "problems": len(crowd.problems()),
    }


UPKEEP = (
    "compact",
    "models use turned",
    "doctor --repair --quick",
    "backup {archive} --overwrite",
    "models use toy",
    "models remove turned-1",
)


def gather(folder: Path, seconds: float, *, seed: int = 0, say: Callable[[str], None] = print) -> dict[str, Any]:
    """The long version: `seconds` with everybody. The figures for SECURITY.md; what was wrong is said."""
    crowd = Crowd(folder, seed)
    has_browser = any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    upkeep = [step.format(archive=folder / "saved.zip") for step in UPKEEP]
    crowd.go(seconds, readers=2, threads=2, queries=2, upkeep=upkeep, has_page=has_browser)
    if not has_browser:
        say("  no Chromium here: the page was not among them")
    for problem in crowd.problems()[:50]:
        say(f"  {problem}")
    return summary(crowd, seconds)


if __name__ == "__main__":
    made = reader_process(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    print(json.dumps({"done": made.done, "problems": made.problems, "figures": made.figures}))
