"""The table of perplexities as metrics of a run."""


def flatten_definitions(rows: list[dict[str, object]]) -> dict[str, object]:
    """The rows of `helpers.perplexity.definitions` under one name for each value.

    `perplexity_base` is the rolling one; others are named, such as `perplexity_stride_base`. What
    is the same for all models has no model in its name: `context_rolling`, `tokens_stride`.
    """
    metrics = {}
    for row in rows:
        definition, model = row["definition"], row["model"].replace("-", "")
        for name in row.keys() - {"model", "definition"}:
            shared = name in ("first token", "context", "stride", "tokens")
            key = "_".join([name, definition] if shared else [name, definition, model])
            key = key.replace(" ", "_").replace(f"_rolling_{model}", f"_{model}")
            if row[name] is not None:
                metrics[key] = row[name]
    return dict(sorted(metrics.items()))
