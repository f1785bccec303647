"""The ``what-if`` command. Knows options and output; ``what_if.py`` predicts."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from kmem_harness.core.sizes import format_size
from kmem_harness.experiments.what_if import predict
from kmem_harness.handles import limit_text

if TYPE_CHECKING:
    from kmem_harness.experiments.what_if import Charge, Prediction

__all__ = ["what_if"]

#: Steps shown where no limit is asked about; --json has all.
_SHOWN = 12


@click.command("what-if")
@click.argument("files", metavar="FILE.jsonl...", nargs=-1, required=True)
@click.option(
    "--kmem-limit",
    "limits",
    metavar="SIZE",
    multiple=True,
    help="A limit to ask about; repeatable.",
)
@click.option(
    "--memcg", metavar="PATH", help="Whose limit (default: the lowest memcg above all recordings)."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def what_if(
    files: tuple[str, ...], limits: tuple[str, ...], memcg: str | None, *, as_json: bool
) -> None:
    """Predict at which limit the first refusal would come, without running again.

    FILE is what `kmem-harness run --observe --events FILE --events-all` recorded; several are the
    boxes of one memcg. Until its first refusal a run goes as recorded; what it would do after that,
    nobody knows.
    """
    asked = {text: int(limit_text(text)) for text in limits}
    prediction = predict(files, memcg)
    if as_json:
        refused = {text: _json(prediction.first_refused(size)) for text, size in asked.items()}
        click.echo(json.dumps({**prediction.as_dict(), "limits": refused}, indent=2))
        return
    _show(prediction, asked)


def _json(charge: Charge | None) -> dict[str, object] | None:
    return None if charge is None else asdict(charge)


def _show(prediction: Prediction, asked: dict[str, int]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("kmem limit", "first refused", "call", "by thread", "at second"):
        table.add_column(heading, justify="left" if heading == "call" else "right")
    if asked:
        for text, size in asked.items():
            table.add_row(text, *_cells(prediction.first_refused(size)))
    else:
        step = max(-(-len(prediction.usages) // _SHOWN), 1)
        for index in range(0, len(prediction.usages), step):
            charge = prediction.record(index)
            table.add_row(f"below {format_size(charge.usage)}", *_cells(charge))
    table.add_row(f"from {format_size(prediction.smallest_limit)}", *_cells(None))
    console.print(
        f"{prediction.charges} charges below {prediction.memcg}, kernel {prediction.kernel}; "
        f"{len(prediction.usages)} set a new record"
    )
    console.print(table)
    console.print(
        f"smallest limit that refuses nothing: {prediction.smallest_limit} "
        f"({format_size(prediction.smallest_limit)})"
    )
    for caveat in prediction.caveats:
        console.print(f"mind: {caveat}", style="yellow")


def _cells(charge: Charge | None) -> tuple[str, ...]:
    if charge is None:
        return ("never", "", "", "")
    return (
        f"charge {charge.number}",
        f"{charge.syscall} ({charge.kind}, {format_size(charge.nbytes)})",
        str(charge.tid),
        f"{charge.seconds:.3f}",
    )
