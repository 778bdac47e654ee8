"""`mmsearch eval mmeb-v2 | mmeb-report | m-beir`: public benchmarks, with any model."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch.cli.shared import OK, SOME_FAILED, DeviceOption, FamilyOption, JsonOption, named_model, note

if TYPE_CHECKING:
    from mmsearch.evaluation.mbeir.report import Report as MBeirReport
    from mmsearch.evaluation.mmeb.report import Report
    from mmsearch.evaluation.mmeb.run import Finished, Outcome

TELL_EVERY_S = 10.0

ModelOption = Annotated[
    str, typer.Option("--model", metavar="NAME", help="Checkpoint: mini, a folder, or a hub name that was pulled.")
]
DataOption = Annotated[
    Path, typer.Option("--data", metavar="DIR", help="Folder of the data sets, each as <owner>/<name>.")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Folder of the results [default: runs/<benchmark>/<model>].")
]
TasksOption = Annotated[
    list[str] | None, typer.Option("--tasks", metavar="GLOB", help="Only tasks whose name fits; again for more.")
]
GroupOption = Annotated[
    list[str] | None,
    typer.Option(
        "--group", metavar="GROUP", help="Only this group (I-CLS, V-QA, D-V1, …) or modality; again for more."
    ),
]
LimitOption = Annotated[
    int | None,
    typer.Option("--limit", min=1, metavar="N", help="Only the first N queries of each task, to try it; kept apart."),
]
DtypeOption = Annotated[
    str | None,
    typer.Option("--dtype", metavar="TYPE", help="float32 or bfloat16 [default: what the device does well]."),
]
FramesOption = Annotated[
    int | None,
    typer.Option(
        "--frames", min=1, metavar="N", help="Of a video, at most [default: what the model was made for, else 8]."
    ),
]


class Pictures(StrEnum):
    upright = "upright"
    plain = "plain"
    plain_on_white = "plain_on_white"


DecodingOption = Annotated[
    Pictures | None,
    typer.Option(
        "--decoding",
        help="Pictures as the application decodes them (upright: turned by EXIF, alpha on white), or as the reference (plain) or Qwen's "
        "code does [default: as the evaluation that the model's makers published].",
        show_default=False,
    ),
]
CacheOption = Annotated[
    Path | None, typer.Option("--cache", metavar="DIR", help="Where vectors are kept [default: <out>/vectors].")
]


def mmeb_v2_command(
    model: ModelOption = "mini",
    data: DataOption = Path("data"),
    out: OutOption = None,
    tasks: TasksOption = None,
    group: GroupOption = None,
    limit: LimitOption = None,
    frames: FramesOption = None,
    cache: CacheOption = None,
    decoding: DecodingOption = None,
    family: FamilyOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a model on MMEB-V2. 78 tasks of images, video and document pages.

    Interrupting is safe: the same command goes on; finished tasks are done again only if model, task or data changed. A task that
    fails is named and the others go on (exit code 4). On several GPUs: `torchrun --nproc-per-node=8 -m mmsearch eval mmeb-v2 …`.
    How to get the data: mmsearch/evaluation/README.md.

    \b
    Examples:
      mmsearch eval mmeb-v2 --model VLM2Vec/VLM2Vec-V2.0 --data ~/mmeb
      mmsearch eval mmeb-v2 --data ~/mmeb --group visdoc --limit 20
      mmsearch eval mmeb-v2 --data ~/mmeb --tasks 'ViDoRe_*' --tasks MSCOCO_t2i
    """
    from mmsearch.evaluation.mmeb.data import load_task
    from mmsearch.evaluation.mmeb.report import read_report
    from mmsearch.evaluation.mmeb.run import chosen, run_benchmark
    from mmsearch.evaluation.mmeb.tasks import TASKS

    _demand_folder(data)
    picked = chosen(TASKS.values(), tasks or (), group or ())
    place = out or Path("runs") / "mmeb-v2" / Path(model).name
    finished = run_benchmark(
        picked,
        lambda task: load_task(task, data),
        named_model(model, family) or model,
        place,
        device=device,
        dtype=dtype,
        limit=limit,
        cache=cache,
        decoding=decoding.value if decoding else None,
        frames=frames,
        watcher=_Lines(),
    )
    if finished.is_first:
        report = read_report(place, model, dim=finished.dim, limit=limit)
        _tell_report(report, place, finished, as_json=as_json)
    raise typer.Exit(SOME_FAILED if finished.failures else OK)


class Pool(StrEnum):
    local = "local"
    union = "union"
    both = "both"


def m_beir_command(
    model: ModelOption = "mini",
    data: DataOption = Path("data"),
    out: OutOption = None,
    pool: Annotated[
        Pool, typer.Option("--pool", help="Rank each task's own candidates, the 5.6 million of all tasks, or each way.")
    ] = Pool.local,
    tasks: TasksOption = None,
    limit: LimitOption = None,
    cache: CacheOption = None,
    decoding: DecodingOption = None,
    family: FamilyOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a model on M-BEIR. 16 retrieval tasks with instructions, of text, images and both.

    Runs, stops and goes on as `eval mmeb-v2` does. "Recall@k" of M-BEIR is hit@k here: whether a right candidate is among the first k.

    \b
    Examples:
      mmsearch eval m-beir --model VLM2Vec/VLM2Vec-V2.0 --data ~/data
      mmsearch eval m-beir --data ~/data --tasks nights_task4 --pool union
    """
    from mmsearch.evaluation.mbeir.report import POOLS, read_report, write_report
    from mmsearch.evaluation.mbeir.tasks import TASKS
    from mmsearch.evaluation.mmeb.data import load_task
    from mmsearch.evaluation.mmeb.report import text_table
    from mmsearch.evaluation.mmeb.run import chosen, run_benchmark
    from mmsearch.words import to_json

    _demand_folder(data)
    groups = {POOLS[name] for name in (POOLS if pool is Pool.both else (pool.value,))}
    own = [task for task in TASKS.values() if task.group in groups]
    place = out or Path("runs") / "m-beir" / Path(model).name
    finished = run_benchmark(
        chosen(own, tasks or ()),
        lambda task: load_task(task, data),
        named_model(model, family) or model,
        place,
        device=device,
        dtype=dtype,
        limit=limit,
        cache=cache,
        decoding=decoding.value if decoding else None,
        watcher=_Lines(),
    )
    if finished.is_first:
        report = read_report(place, model, dim=finished.dim, limit=limit)
        files = write_report(report, place)
        if as_json:
            about = {
                "schema": 1,
                "benchmark": "M-BEIR",
                "model": model,
                "model_key": finished.model_key,
                "limit": limit,
            }
            print(to_json(about | report.record() | _state(report, finished, files), indent=2))
        elif report.files:
            for line in text_table(report.table()):
                print(line)
        _say(report, finished, files)
    raise typer.Exit(SOME_FAILED if finished.failures else OK)


def _demand_folder(data: Path) -> None:
    if not data.is_dir():
        raise typer.BadParameter(
            f"no folder '{data}': say where the data sets are; mmsearch/evaluation/README.md tells how to get them",
            param_hint="--data",
        )


def mmeb_report_command(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of results, ours or the reference's.")],
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="The model's name [default: the folder's].")
    ] = "",
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The run over the first N queries of each task.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Report on MMEB-V2's score files. Table and plot, beside published numbers.

    \b
    Examples:
      mmsearch eval mmeb-report runs/mmeb-v2/VLM2Vec-V2.0 --model VLM2Vec/VLM2Vec-V2.0
    """
    from mmsearch.evaluation.mmeb.report import read_report

    _tell_report(read_report(out, model or out.name, limit=limit), out, None, as_json=as_json)


def _tell_report(report: Report, out: Path, finished: Finished | None, *, as_json: bool) -> None:
    """Write the report's files and print it; what is missing and what failed goes to stderr."""
    from mmsearch.evaluation.mmeb.published import published_scores
    from mmsearch.evaluation.mmeb.report import COMPARED, plot, text_table, write_report
    from mmsearch.words import to_json

    written = write_report(report, out)
    chart = plot(report, written[0].with_suffix(".png"))
    if chart is None and report.scores:
        note("no plot: matplotlib is not installed (`make install EXTRAS=train`)")
    files = [*written, *([chart] if chart else [])]
    if as_json:
        print(to_json(_record(report, finished, files), indent=2))
    elif report.scores:
        published = published_scores()
        for line in text_table(report.table({model: published[model] for model in COMPARED})):
            print(line)
    _say(report, finished, files)


def _say(report: Report | MBeirReport, finished: Finished | None, files: list[Path]) -> None:
    sys.stdout.flush()
    for words in report.warnings():
        note(words)
    for outcome in finished.failures if finished else ():
        note(f"failed: {outcome.task.name}: {outcome.failure}")
    note(f"wrote {', '.join(map(str, files))}")


def _state(report: Report | MBeirReport, finished: Finished | None, files: list[Path]) -> dict[str, Any]:
    failures = finished.failures if finished else []
    return {
        "failed": {outcome.task.name: outcome.failure for outcome in failures},
        "warnings": report.warnings(),
        "files": [str(path) for path in files],
    }


def _record(report: Report, finished: Finished | None, files: list[Path]) -> dict[str, Any]:
    return {
        "schema": 1,
        "benchmark": "MMEB-V2",
        "model": report.model,
        "model_key": finished.model_key if finished else None,
        "limit": report.limit,
        "means": {name: {"percent": m.value, "tasks": m.tasks, "of": m.of} for name, m in report.means().items()},
        "tasks": report.scores,
        **_state(report, finished, files),
    }


class _Lines:
    """Tells a run on stderr: a line per task when it ends, and how far it is now and then."""

    def __init__(self) -> None:
        self._place = ""
        self._told_at = time.monotonic()

    def task_begins(self, task: Any, number: int, of: int) -> None:
        self._place = f"[{number}/{of}] {task.name}"

    def encoding(self, done: int, of: int) -> None:
        if time.monotonic() - self._told_at >= TELL_EVERY_S and done < of:
            self._told_at = time.monotonic()
            note(f"{self._place}: encoded {done:,} of {of:,}")

    def task_ends(self, outcome: Outcome) -> None:
        note(f"{self._place}: {outcome_words(outcome)}")


def outcome_words(outcome: Outcome) -> str:
    """A task's score, over what, and what is odd about it."""
    if outcome.scores is None or outcome.record is None:
        return f"failed: {outcome.failure}"
    record, metric = outcome.record, outcome.task.metric
    parts = [
        f"{metric} {100 * outcome.scores[metric]:.1f}",
        f"{record['queries']:,} queries",
        f"{record['candidates']:,} candidates",
    ]
    parts.append("done before" if outcome.was_done else f"{sum(record['seconds'].values()):.0f} s")
    for count, words in (
        (len(record["unread"]), "rows could not be read and count as wrong"),
        (record["without_a_right_candidate"], "queries have no right answer among their candidates"),
        (record["tied_at_the_top"], "queries have equal candidates at the top"),
    ):
        if count:
            parts.append(f"{count:,} {words}")
    return " · ".join(parts)
