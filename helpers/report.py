"""A run on one page: `report.html`, which needs no network and can be printed."""

import html
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.display import draw_bars, draw_losses, draw_points, html_picture
from helpers.parameters import STEPS, folder_of
from helpers.redaction import redacted
from helpers.run import Run

if TYPE_CHECKING:
    import pandas as pd

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: 1rem 0; font-size: .9rem; }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } tr { border-bottom: 1px solid #8884; }
img { max-width: 100%; background: white; } blockquote { margin: 0 0 1rem; padding-left: 1rem; border-left: 3px solid #8888; white-space: pre-wrap; }
.light { background: white; color: black; color-scheme: light; padding: .5rem; }
@media print { body { max-width: none; margin: 0; font-size: 12px; } .wide { overflow: visible; } td, th { padding-right: .5rem; } h2 { break-after: avoid; } img, tr { break-inside: avoid; } }
"""


def _table(rows: list[dict[str, object]]) -> str:
    """Rows with the same keys as an HTML table."""
    head = "".join(f"<th>{html.escape(str(key))}</th>" for key in rows[0])
    body = ""
    for row in rows:
        cells = [
            (f"{v:,.5g}" if isinstance(v, float) else f"{v:,}" if type(v) is int else ("" if v is None else str(v)), v)
            for v in row.values()
        ]
        body += (
            "<tr>"
            + "".join(
                f"<td{' class=number' if isinstance(v, (int, float)) else ''}>{html.escape(s)}</td>" for s, v in cells
            )
            + "</tr>"
        )
    return f"<div class=wide><table><tr>{head}</tr>{body}</table></div>"


def _page(title: str, parts: list[str], path: Path) -> Path:
    """Write a page that holds all it needs, and no token."""
    head = f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'><title>{html.escape(title)}</title>"
    page = f"{head}<style>{STYLE}</style><body><h1>{html.escape(title)}</h1>" + "\n".join(parts) + "</body></html>\n"
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(redacted(page), encoding="utf-8")
    temporary.replace(path)
    return path


def write_report(run: Run) -> Path:
    """Write `report.html` into the folder of a complete run, from what its steps have left there."""
    metrics = json.loads((run.folder / "metrics.json").read_text())
    records = {step: run.record(step) for step in STEPS}
    losses = json.loads((run.path("train") / "losses.json").read_text())
    scores = json.loads((run.path("evaluate") / "perplexity.json").read_text())
    generated = json.loads((run.path("infer") / "texts.json").read_text())
    ratio, low, high = (metrics[k] for k in ("perplexity_ratio", "perplexity_ratio_low", "perplexity_ratio_high"))
    both = {"base": metrics["perplexity_base"], "fine-tuned": metrics["perplexity_finetuned"]}
    parts = [
        f"<p>Fine-tuning multiplied perplexity by {ratio:.3f} (95 % interval {low:.3f} to {high:.3f}, bootstrap over documents); "
        f"{metrics['share_of_documents_better']:.0%} of the test documents became more likely.</p>",
        html_picture(
            draw_bars(both, "perplexity a token"),
            f"Perplexity: base {both['base']:.1f}, fine-tuned {both['fine-tuned']:.1f}.",
        ),
        "<h2>Perplexity, by definition</h2>",
        _table(scores),
        "<h2>Training</h2>",
        html_picture(
            draw_losses(losses["history"], losses["base_loss"]), "Training and test loss against the steps of training."
        ),
        "<h2>Tokens</h2>",
        _table([{"": name, "tokens": metrics[f"tokens_{name}"]} for name in ("in", "kept", "dropped")]),
        "<h2>Where the loss sits</h2>",
        "<p>The start of two test documents, word by word: the darker the ground, the more surprised the model was.</p>",
        f"<div class=light>{(run.path('evaluate') / 'heat_maps.html').read_text()}</div>",
        "<h2>Texts</h2>",
        *(f"<h3>{html.escape(t['model'])}</h3><blockquote>{html.escape(t['text'])}</blockquote>" for t in generated),
        "<h2>Numbers</h2>",
        _table([{"name": key, "value": value} for key, value in metrics.items()]),
        "<h2>Steps</h2>",
        _table(
            [
                {
                    "step": step,
                    "seconds": record["seconds"],
                    "peak memory (MB)": record["peak_memory_mb"],
                    "parameters": ", ".join(f"{k} = {v}" for k, v in record["parameters"].items()),
                }
                for step, record in records.items()
            ]
        ),
        "<ul>"
        + "".join(f'<li><a href="{folder_of(s)}/{folder_of(s)}.ipynb">{folder_of(s)}.ipynb</a></li>' for s in STEPS)
        + "</ul>",
        "<p>Made with " + ", ".join(f"{k} {v}" for k, v in records["infer"]["versions"].items()) + ".</p>",
    ]
    return _page(f"Run {run.folder.resolve().name}", parts, run.folder / "report.html")


def write_comparison(table: "pd.DataFrame", folders: list[Path], path: Path) -> Path:
    """Write the table of `comparison.comparison` as a page, with perplexity over each number that was varied, and links to the runs."""
    varied = list(table.columns[1 : table.columns.get_loc("perplexity")])
    figures = []
    for name in varied:
        if all(isinstance(value, (int, float)) for value in table[name]) and table[name].nunique() > 1:
            each = table.sort_values(name)
            figure = draw_points(each[name].tolist(), each["perplexity"].tolist(), name, "perplexity")
            best = table.iloc[0][name]
            figures.append(html_picture(figure, f"Perplexity against {name}; the best run has {name} = {best}."))
    links = [
        f'<li><a href="{html.escape(os.path.relpath(f, path.parent))}/report.html">{html.escape(f.name)}</a></li>'
        for f in folders
        if (f / "report.html").exists()
    ]
    about = (
        "<p>Best first, by bits per byte. <em>Low</em> and <em>high</em> are the ends of the 95 % interval of perplexity. "
        "A run is within the noise if the choice of test documents explains its difference from the best (paired bootstrap, 95 %).</p>"
    )
    return _page("Comparison", [about, _table(table.to_dict("records")), *figures, f"<ul>{''.join(links)}</ul>"], path)
