"""Checks of exercises: right answers in any form pass, known mistakes get a hint of their own."""

import itertools
import json
import math
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from helpers.errors import UserError
from helpers.workshop import checks, exercise
from helpers.workshop.checks import EXERCISES, check, hint, problem_of, progress
from helpers.workshop.exercise import LIMIT, NO_RETURN, NOTHING_YET, by_cases, same


def merge_by_text(tokens, pair):
    """By joining with a sign that no token has: merges the same, in another way."""
    text, first, second = "|" + "|".join(tokens) + "|", *pair
    done = ""
    while f"|{first}|{second}|" in text:
        before, _, text = text.partition(f"|{first}|{second}|")
        done, text = f"{done}{before}|{first}{second}", f"|{text}"
    return [token for token in (done + text).split("|") if token]


def first_fit(lengths, room, extra=1, order=None):
    blocks = []
    for i in order or range(len(lengths)):
        fits = [b for b in blocks if sum(lengths[j] + extra for j in [*b, i]) <= room]
        fits[0].append(i) if fits else blocks.append([i])
    return blocks


def longest_first(lengths, room, extra=1):
    return first_fit(lengths, room, extra, np.argsort(-np.array(lengths), kind="stable").tolist())


def next_fit(lengths, room):
    blocks = [[]]
    for i in range(len(lengths)):
        if sum(lengths[j] + 1 for j in [*blocks[-1], i]) > room:
            blocks.append([])
        blocks[-1].append(i)
    return blocks


def by_groups(groups, shares=(0.2, 0.2)):
    """Validation and test filled group by group, the small groups first."""
    sizes = {g: groups.count(g) for g in sorted(set(groups), key=lambda g: (groups.count(g), g))}
    parts, left = {}, list(sizes)
    for part, share in zip(("validation", "test"), shares, strict=True):
        total = 0
        while left and total + sizes[left[0]] <= share * len(groups):
            total += sizes[left[0]]
            parts[left.pop(0)] = part
    return [parts.get(g, "train") for g in groups]


def np_softmax(logits, t=1.0):
    weights = np.exp((np.array(logits, float) - max(logits)) / t)
    return weights / weights.sum()


def sampler(logits, temperature, generator):
    return int(np.searchsorted(np.cumsum(np_softmax(logits, temperature)), generator.random()))


def torch_soften(logits, t):
    logits = torch.tensor(logits)
    return torch.softmax(logits / t, 0) if t else (logits == logits.max()).float()


def torch_top_p(logits, temperature, p, cut_at=None, carry=True, renew=True):
    """With torch, as a sort and a cumulative sum; its mistakes by its arguments."""
    logits = torch.tensor(logits, dtype=torch.float64)
    probabilities = torch.softmax(logits / temperature, 0)
    ordered, places = torch.softmax(logits / (cut_at or temperature), 0).sort(descending=True)
    reached = ordered.cumsum(0) - (ordered if carry else 0)
    dropped = places[reached >= p]
    probabilities[dropped] = 0
    return probabilities / (probabilities.sum() if renew else 1)


def autograd_step(logits, target, rate):
    logits = torch.tensor(logits, requires_grad=True)
    torch.nn.functional.cross_entropy(logits[None], torch.tensor([target])).backward()
    return logits.detach() - rate * logits.grad


def corpus_perplexity(nats, tokens):
    return np.exp(np.average(np.array(nats) / tokens, weights=tokens))


def ratio(a, b, keys=("documents", "tokens", "context"), upside_down=False):
    if any(a[key] != b[key] for key in keys):
        return None
    x, y = (corpus_perplexity(one["nats"], one["tokens"]) for one in (a, b))
    return x / y if upside_down else y / x


def blocks_of(documents, size):
    ids = np.concatenate(documents)
    return [row.tolist() for row in np.split(ids, range(size, len(ids), size))]


def alone(documents, size, eos):
    """Blocks of one document each, token by token."""
    blocks = []
    for ids in documents:
        room = 0
        for i in [*ids, eos]:
            if not room:
                blocks.append([])
                room = size
            blocks[-1].append(i)
            room -= 1
    return blocks


def copies(train, test, least=0.5, of=min):
    """By a table of shares, a row for each test document."""
    shares = [[len(set(a) & set(b)) / of(len(a), len(b)) for b in train] for a in test]
    return np.flatnonzero(np.max(shares, axis=1) >= least)


def over_tokens(losses, tokens):
    return np.exp(np.average(losses, weights=tokens))


LN_2 = math.log(2)


def better(text, *models, size=lambda text: len(bytes(text, "utf-8")), bit=LN_2):
    bits = np.array([loss * tokens / bit / size(text) for loss, tokens in models])
    return int(bits.argmin()), bits.min()


def group_by_group(groups):
    """The loop of the exercise, with the part that has fewest of its share."""
    part_of, filled = {}, {"test": 0, "validation": 0, "train": 0}
    for group in dict.fromkeys(groups):
        size = groups.count(group)
        room = [p for p in ("test", "validation") if filled[p] + size <= 0.25 * len(groups)]
        part = min(room, key=filled.get, default="train")
        part_of[group] = part
        filled[part] += size
    return [part_of[group] for group in groups]


def until_full(groups, share):
    """Groups go to a part until it has its share, whatever the size of the last one."""
    part_of, filled = {}, {"test": 0, "validation": 0}
    for group in dict.fromkeys(groups):
        part = next((p for p in filled if filled[p] < share * len(groups)), "train")
        part_of[group] = part
        filled[part] = filled.get(part, 0) + groups.count(group)
    return [part_of[group] for group in groups]


def without_last(tokens, pair):
    """The loop over all tokens that have one after them."""
    done, i = [], 0
    while i < len(tokens) - 1:
        done.append(tokens[i] + tokens[i + 1] if [*pair] == tokens[i : i + 2] else tokens[i])
        i += 2 if [*pair] == tokens[i : i + 2] else 1
    return done


def closed_afterwards(documents, size, eos):
    """A document is cut, and its last block gets the end-of-text."""
    blocks = []
    for ids in documents:
        blocks += [ids[i : i + size] for i in range(0, len(ids), size)]
        blocks[-1].append(eos)
    return blocks


def own_labels(ids, length):
    return torch.where(torch.arange(len(ids)) < length, torch.tensor(ids), -100)


RIGHT = {
    "0.1": [
        lambda ids: [(ids[i], ids[i + 1]) for i in range(len(ids) - 1)],
        lambda ids: np.stack([ids[:-1], ids[1:]], 1),
        lambda ids: itertools.pairwise(ids),
        lambda ids: torch.tensor(ids).unfold(0, 2, 1),
    ],
    "0.2": [
        lambda p: -np.log(p).mean(),
        lambda p: torch.tensor(p).log().neg().mean(),
        lambda p: round(float(-np.log(p).mean()), 3),
        lambda p: [np.float32(-np.log(p).mean())],
        lambda p: math.log(1 / math.prod(p)) / len(p),
    ],
    "0.3": [
        sampler,
        lambda logits, t, g: g.choice(len(logits), p=np_softmax(logits, t)),
        lambda logits, t, g: torch.multinomial(torch.tensor(np_softmax(logits, t)), 1),
        lambda logits, t, g: random.choices(range(len(logits)), np_softmax(logits, t))[0],
        lambda logits, t, g: int(np.argmax(np.array(logits) / t + g.gumbel(size=len(logits)))),
    ],
    "1.1": [
        lambda s: sum(1 for part in s for text in s[part] if text.strip()),
        lambda s: np.int64(sum(len([t for t in part if t.split()]) for part in s.values())),
        lambda s: float(sum(bool(t.strip()) for part in s.values() for t in part)),
    ],
    "1.2": [
        copies,
        lambda train, test: torch.tensor(copies(train, test)),
        lambda train, test: set(copies(train, test).tolist()),
    ],
    "1.3": [by_groups, lambda groups: by_groups(groups, (0.25, 0.25)), group_by_group],
    "2.1": [
        lambda tokens: np.float32(len(bytes("".join(tokens), "utf-8")) / len(tokens)),
        lambda tokens: round(sum(len(t.encode()) for t in tokens) / len(tokens), 2),
        lambda tokens: torch.tensor([len(t.encode()) for t in tokens]).float().mean(),
    ],
    "2.2": [merge_by_text, lambda tokens, pair: tuple(merge_by_text(tokens, pair))],
    "2.3": [
        ("the man who was in the house and the old man was", "1928374650" * 5),
        ["It was the best of all that he had ever seen.", "日本語の文章" * 8],
    ],
    "3.1": [
        lambda n, size: (math.ceil((sum(n) + len(n)) / size), (sum(n) + len(n)) % size or size),
        lambda n, size: np.array(
            [-(-sum(i + 1 for i in n) // size), (sum(n) + len(n) - 1) % size + 1]
        ),
    ],
    "3.2": [
        alone,
        lambda d, size, eos: (row for one in d for row in torch.tensor([*one, eos]).split(size)),
    ],
    "3.3": [
        longest_first,
        lambda lengths, room: list(map(tuple, longest_first(lengths, room))),
        first_fit,  # a block more than the fewest, for one of the lists
        lambda lengths, room: iter(longest_first(lengths, room)),
    ],
    "4.1": [own_labels, lambda ids, n: own_labels(ids, n).numpy()],
    "4.2": [autograd_step, lambda *a: [round(x, 3) for x in autograd_step(*a).tolist()]],
    "4.3": [
        {"run_dir": "runs/mine", "learning_rate": 1e-4},
        {"run_dir": "/somewhere/else", "train.num_train_epochs": np.int64(3)},
        {"run_dir": "runs/mine", "seed": 42, "weight_decay": 0.1},
        {"run_dir": "runs/mine", "lora_rank": 8},
    ],
    "5.1": [
        over_tokens,
        lambda losses, n: torch.tensor(losses).repeat_interleave(torch.tensor(n)).mean().exp(),
        lambda losses, tokens: round(float(over_tokens(losses, tokens)), 2),
    ],
    "5.2": [
        better,
        lambda *a: np.array(better(*a)),
        lambda *a: [better(*a)[0], round(better(*a)[1], 3)],
        lambda *a: torch.tensor(better(*a)),
    ],
    "5.3": [ratio, lambda a, b: (r := ratio(a, b)) and np.float32(r)],
    "6.1": [torch_soften, lambda x, t: np.round(torch_soften(x, t).numpy(), 3)],
    "6.2": [torch_top_p, lambda *a: torch_top_p(*a).tolist()],
    "6.3": [
        (1.8, 4, 1.0),
        {"temperature": 1.75, "top_k": 4, "top_p": 1},
        np.array([3.0, 3.0, 1.0]),
        torch.tensor([1.8, 4, 1.0]),
    ],
}

# What people answer, with a part of what is said about it.
WRONG = {
    "0.1": [
        (lambda ids: [(i, i) for i in ids], "paired with itself"),
        (lambda ids: list(zip(ids[1:], ids, strict=False)), "turned round"),
        (lambda ids: list(zip(ids, np.roll(ids, -1).tolist(), strict=True)), "as `roll` does"),
        (lambda ids: [(ids[i], ids[i + 2]) for i in range(len(ids) - 2)], "by two places"),
        (lambda ids: [(ids[i], ids[i + 1]) for i in range(len(ids) - 2)], "missing at the end"),
        (lambda ids: [(ids[i], ids[i + 1]) for i in range(len(ids))], "beyond the end of a list"),
        (lambda ids: next((ids[i], ids[i + 1]) for i in range(len(ids))), "inside the loop"),
        ([(5, 9), (9, 2)], "is not a function"),
    ],
    "0.2": [
        (lambda p: -np.log2(p).mean(), "base 2"),
        (lambda p: -np.log(p).sum(), "the sum"),
        (lambda p: -math.log(np.mean(p)), "averaged first"),
        (lambda p: np.log(p).mean(), "sign"),
        (lambda p: np.exp(-np.log(p).mean()), "the perplexity"),
        (lambda p: 1 - np.mean(p), "1 − p"),
        (lambda p: -np.log10(p).mean(), "base 10"),
        (lambda p: -math.log(p), "A list is no number"),
    ],
    "0.3": [
        (lambda logits, t, g: int(np.argmax(logits)), "greedy"),
        (lambda logits, t, g: sampler(logits, 1.0, g), "makes no difference"),
        (lambda logits, t, g: sampler(logits, 1 / t, g), "multiplied"),
        (lambda logits, t, g: g.integers(len(logits)), "equally often"),
        (lambda logits, t, g: sampler(logits, t, np.random.default_rng(4)), "the generator that"),
        (lambda logits, t, g: logits[sampler(logits, t, g)], "the place of a token"),
    ],
    "1.1": [
        (lambda s: sum(bool(t.strip()) for t in s["train"]), "Only `train`"),
        (lambda s: sum(bool(t.strip()) for t in s["train"] + s["test"]), "`validation` is missing"),
        (lambda s: len(s), "the number of parts"),
        (lambda s: sum(len(part) for part in s.values()), "without text are counted"),
        (lambda s: sum(len([t for t in p if t]) for p in s.values()), "spaces or line breaks"),
    ],
    "1.2": [
        (lambda train, test: copies(train, test, of=lambda one, other: one), "what it copies"),
        (lambda train, test: copies(train, test, of=lambda one, other: other), "training doc"),
        (lambda train, test: copies(train, test, of=max), "the longer document's"),
        (lambda train, test: copies(train, test, 0.51), "Exactly half"),
        (lambda train, test: copies(train, test, 1, of=max), "Only exact copies"),
        (lambda train, test: [], "No copy is found"),
        (lambda train, test: copies(train, test, 1e-9), "One run in common"),
        (lambda train, test: copies([sum(train, [])], test), "as one document"),
        (lambda train, test: copies(test, train), "places in `train`"),
        (lambda train, test: [i in copies(train, test) for i in range(len(test))], "a yes or no"),
        (lambda train, test: [test[i] for i in copies(train, test)], "the documents themselves"),
        (
            lambda train, test: [
                i for i, one in enumerate(test) for other in train if len(copies([other], [one]))
            ],
            "once for each original",
        ),
    ],
    "1.3": [
        (lambda g: (["train"] * 3 + ["validation", "test"]) * 6, "names came back"),
        (
            lambda g: [
                ("train", "train", "train", "validation", "test")[i % 5] for i in range(len(g))
            ],
            "is torn",
        ),
        (lambda g: ["train"] * len(g), "no document is in 'validation'"),
        (lambda g: by_groups(g, (0.05, 0.4)), "which is not between"),
        (lambda g: until_full(g, 0.3), "'test' gets 40% of the documents"),
        (lambda g: dict.fromkeys(g, "train"), "is not a list with the name of a part for each"),
        (lambda g: [name.replace("validation", "dev") for name in by_groups(g)], "name of no part"),
    ],
    "2.1": [
        (lambda tokens: len("".join(tokens)) / len(tokens), "Characters were counted"),
        (lambda tokens: len(tokens) / len("".join(tokens).encode()), "upside down"),
        (
            lambda tokens: sum(len(t.strip().encode()) for t in tokens) / len(tokens),
            "spaces are not",
        ),
        (lambda tokens: len(" ".join(tokens).encode()) / len(tokens), "put between the tokens"),
        (lambda tokens: sum(len(t.encode()) for t in tokens) // len(tokens), "rounded down"),
        (lambda tokens: np.mean([len(t.encode()) for t in set(tokens)]), "counted once"),
        (lambda tokens: len("".join(tokens).split()) / len(tokens), "words per token"),
        (lambda tokens: sum(len(t.encode()) for t in tokens), "for all tokens"),
        (lambda tokens: [len(t.encode()) for t in tokens], "their mean"),
    ],
    "2.2": [
        (
            lambda tokens, pair: (
                "|".join(tokens).replace("|".join(pair), "".join(pair), 1).split("|")
            ),
            "`split_word` comes back",
        ),
        (
            lambda tokens, pair: [
                "".join(pair) if (a, b) == tuple(pair) else a
                for a, b in zip(tokens, [*tokens[1:], ""], strict=True)
            ],
            "still there",
        ),
        (lambda tokens, pair: list(tokens), "Nothing was merged"),
        (without_last, "The last token is lost"),
        (
            lambda tokens, pair: (
                merge_by_text(tokens, pair[::-1])
                if pair[1] in tokens[:1]
                else merge_by_text(tokens, pair)
            ),
            "The order matters",
        ),
    ],
    "2.3": [
        ("one text", "not a pair"),
        (("short", "1" * 45), "has 5 characters"),
        (("1928374650" * 5, "the man who was in the house and the old man was"), "comes first"),
        (
            (
                "It was the best of all that he had ever seen.",
                "It was the worst of all that he ever saw.",
            ),
            "not yet",
        ),
    ],
    "3.1": [
        (
            lambda n, size: (math.ceil(sum(n) / size), sum(n) % size or size),
            "end-of-text tokens are missing",
        ),
        (lambda n, size: (sum(n) + len(n)) // size, "Lay the documents"),
        (lambda n, size: math.ceil((sum(n) + len(n)) / size), "asked for, too"),
        (lambda n, size: divmod(sum(n) + len(n), size), "Full blocks alone"),
        (lambda n, size: ((sum(n) + len(n)) // size, size), "tail is dropped"),
        (
            lambda n, size: (math.ceil((sum(n) + len(n)) / size), (sum(n) + len(n)) % size),
            "of 0 tokens",
        ),
        (
            lambda n, size: (
                math.ceil((sum(n) + len(n) - 1) / size),
                (sum(n) + len(n) - 1) % size or size,
            ),
            "The last document is followed",
        ),
    ],
    "3.2": [
        (lambda d, size, eos: blocks_of([[*one, eos] for one in d], size), "the end of one and"),
        (
            lambda d, size, eos: [b for b in alone(d, size, eos) if len(b) == size],
            "shorter blocks are missing",
        ),
        (
            lambda d, size, eos: [b for one in d for b in blocks_of([one], size)],
            "no end-of-text after",
        ),
        (
            lambda d, size, eos: [b for one in d for b in blocks_of([[eos, *one]], size)],
            "before each document",
        ),
        (
            lambda d, size, eos: [[*b, eos] for one in d for b in blocks_of([one], size)],
            "follows each block",
        ),
        (closed_afterwards, "longer than block_size"),
        (lambda d, size, eos: [[*one, eos][:size] for one in d], "beyond it is lost"),
        (lambda d, size, eos: [[*one, eos] for one in d], "Nothing is cut"),
        (
            lambda d, size, eos: [(b + [eos] * size)[:size] for b in alone(d, size, eos)],
            "filled up",
        ),
        (lambda d, size, eos: [alone([one], size, eos) for one in d], "One list holds all"),
    ],
    "3.3": [
        (lambda n, room: longest_first(n, room, 0), "too full"),
        (next_fit, "6 blocks, where 4 can be done and 5 will do"),
        (lambda n, room: longest_first(n, room)[:-1], "is in no block"),
        (lambda n, room: [[0], *longest_first(n, room)], "is in two blocks"),
        (lambda n, room: [[n[i] * 5 for i in b] for b in longest_first(n, room)], "by its place"),
        (lambda n, room: [list(range(len(n)))], "more than 16 tokens"),
    ],
    "4.1": [
        (lambda ids, n: [-100 if i == 1 else i for i in ids], "never learns to stop"),
        (lambda ids, n: [-100, *own_labels(ids, n).tolist()[1:]], "as `collate` does"),
        (lambda ids, n: ids, "Nothing is masked"),
        (lambda ids, n: [*own_labels(ids, n).tolist()[1:], -100], "shifted"),
        (lambda ids, n: np.where(np.arange(len(ids)) < n, ids, 0), "has the label 0"),
        (lambda ids, n: own_labels(ids, n - 1), "it is the end of the text"),
        (lambda ids, n: ids[:n], "cut off"),
    ],
    "4.2": [
        (lambda x, t, rate: autograd_step(x, t, -rate), "up the slope"),
        (lambda x, t, rate: np.array(x) - rate * np_softmax(x), "Every logit goes down"),
        (lambda x, t, rate: np.array(x) + rate * np.eye(len(x))[t], "Only the target's"),
        (lambda x, t, rate: autograd_step(x, t, 1.0), "learning rate makes no"),
        (lambda x, t, rate: np.array(x) - autograd_step(x, t, rate).numpy(), "Where are they"),
        (lambda x, t, rate: np_softmax(autograd_step(x, t, rate).tolist()), "are probabilities"),
    ],
    "4.3": [
        ({"run_dir": "runs/tiny", "learning_rate": 1e-4}, "overwrites"),
        ({"run_dir": "./runs/../runs/tiny/", "learning_rate": 1e-4}, "overwrites"),
        ({"learning_rate": 1e-4}, "There is no `run_dir`"),
        ({"run_dir": "runs/mine"}, "Nothing differs"),
        ({"run_dir": "runs/mine", "learning_rate": 1e-4, "seed": 1}, "changed at once"),
        *[
            ({"run_dir": "runs/mine", name: value}, f"You change `{name}`. {said}")
            for name, value, said in (
                ("seed", 1, "It changes chance"),
                ("sample_prompt", "Why", "The model continues it"),
                ("report_to", "trackio", "It says where"),
                ("merge_lora", False, "It says how adapters"),
                ("compute_dtype", "float32", "It changes how fast"),
            )
        ],
        ({"run_dir": "runs/mine", "lerning_rate": 1e-4}, "the nearest is 'learning_rate'"),
        ({"run_dir": "runs/mine", "learning_rate": 0}, "greater than 0"),
        ("-p learning_rate=1", "not a dictionary"),
    ],
    "5.1": [
        (lambda losses, tokens: np.exp(losses).mean(), "mean of the documents'"),
        (lambda losses, tokens: np.exp(np.mean(losses)), "mean of means"),
        (lambda losses, tokens: np.average(losses, weights=tokens), "This is the loss"),
        (lambda losses, tokens: 2 ** np.average(losses, weights=tokens), "right for bits"),
        (lambda losses, tokens: np.average(np.exp(losses), weights=tokens), "by tokens"),
        (lambda losses, tokens: np.exp(sum(losses) / sum(tokens)), "per token already"),
        (lambda losses, tokens: np.exp(np.dot(losses, tokens) / len(tokens)), "How many tokens"),
        (lambda losses, tokens: 1 / over_tokens(losses, tokens), "never below 1"),
        (lambda losses, tokens: 7.0, "one of 5?"),
    ],
    "5.2": [
        (
            lambda text, a, b: (0, better(text, a)[1]) if a < b else (1, better(text, b)[1]),
            "by the loss per token",
        ),
        (
            lambda text, a, b: (0, better(text, a)[1]) if a[1] < b[1] else (1, better(text, b)[1]),
            "fewer tokens",
        ),
        (
            lambda text, a, b: (1 - better(text, a, b)[0], max(better(text, x)[1] for x in (a, b))),
            "more bits per byte",
        ),
        (lambda *a: better(*a, bit=1), "nats per byte"),
        (lambda *a: better(*a, bit=1 / math.log(2)), "multiplied by ln 2"),
        (lambda *a: better(*a, size=len), "bits per character"),
        (lambda *a: better(*a, size=lambda text: 1), "bits of the whole text"),
        (lambda text, a, b: [better(text, one)[1] for one in (a, b)], "of both"),
        (lambda *a: (1 + better(*a)[0], better(*a)[1]), "counted from 0"),
        (lambda *a: better(*a)[1], "return two numbers"),
        (lambda *a: better(*a)[0], "return two numbers"),
    ],
    "5.3": [
        (lambda a, b: ratio(a, b, ()), "different documents"),
        (lambda a, b: ratio(a, b, ("tokens", "context")), "as many, but not the same"),
        (lambda a, b: ratio(a, b, ("documents", "tokens")), "Their contexts differ"),
        (lambda a, b: ratio(a, b, ("documents", "context")), "more tokens for one"),
        (lambda a, b: ratio(a, b, upside_down=True), "upside down"),
        (lambda a, b: ratio(a, b) or "not comparable", "(if not, `None`)"),
    ],
    "6.1": [
        (lambda x, t: np_softmax([i / t for i in x]), "no division"),
        (lambda x, t: torch.softmax(torch.tensor(x) / t, 0), "no division"),
        (lambda x, t: np_softmax(np.array(x) * t), "multiplied"),
        (lambda x, t: torch_soften(x, t) if t else max(x), "the highest logit"),
        (lambda x, t: torch_soften(x, t) if t else int(np.argmax(x)), "a place"),
        (lambda x, t: np.exp(np.array(x) / t) if t else torch_soften(x, 0), "add up to 1"),
        (lambda x, t: np_softmax(x) / t if t else torch_soften(x, 0), "after softmax"),
        (lambda x, t: np_softmax(x, t or 1), "not the same as 1"),
    ],
    "6.2": [
        (lambda x, t, p: torch_top_p(x, t, p, cut_at=1.0), "before the temperature"),
        (lambda x, t, p: torch_top_p(x, t, p, renew=False), "do not add up to 1"),
        (lambda x, t, p: torch_top_p(x, t, p, carry=False), "over p is missing"),
        (lambda x, t, p: torch_top_p(x, 1.0, p), "makes no difference"),
        (lambda x, t, p: np.sort(torch_top_p(x, t, p))[::-1], "are sorted"),
    ],
    "6.3": [
        ((0, 4, 1.0), "above 0"),
        ((1.0, 1, 1.0), "Only 1 of the tokens"),
        ((1.8, 0, 1.0), "6 of the tokens"),
        ((1.0, 4, 1.0), "too sure"),
        ((5.0, 4, 1.0), "not sure enough"),
        ((1.8, 4), "not three numbers"),
        ((1.8, 4, 0), "top_p is above 0"),
    ],
}


@pytest.fixture
def state(tmp_path, monkeypatch):
    path = tmp_path / "work" / "progress.json"
    monkeypatch.setattr(checks, "STATE", path)
    return path


def test_every_exercise_is_tested_three_levels_to_a_notebook():
    assert set(RIGHT) == set(WRONG) == set(EXERCISES)
    assert [one.level for one in EXERCISES.values()] == ["easy", "middle", "open"] * 7
    for one in EXERCISES.values():
        assert len(set(one.hints)) == 3 and len(one.title) <= 42


@pytest.mark.parametrize(
    "number, answer", [(n, a) for n, answers in RIGHT.items() for a in answers]
)
def test_a_right_answer_passes_in_any_form(number, answer):
    assert problem_of(number, answer) is None


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize(
    "number, answer, part", [(n, *pair) for n, pairs in WRONG.items() for pair in pairs]
)
def test_a_mistake_that_people_make_has_a_hint_of_its_own(number, answer, part):
    assert part in (problem_of(number, answer) or "it passes")


@pytest.mark.parametrize("number", EXERCISES)
def test_three_or_more_mistakes_with_different_hints(number):
    said = {part for _, part in WRONG[number]}
    assert len(said) >= 3


@pytest.mark.parametrize("number", EXERCISES)
def test_a_check_takes_less_than_two_seconds(number):
    began = time.process_time()
    for answer in [RIGHT[number][0], WRONG[number][0][0]]:
        problem_of(number, answer)
    assert time.process_time() - began < 4


@pytest.mark.parametrize("value", [..., None])
@pytest.mark.parametrize("number", EXERCISES)
def test_what_is_no_answer_is_none(number, value, state):
    assert problem_of(number, value)
    check(number, ...)
    assert not state.exists()


NUMBERS = ("0.2", "2.1", "5.1", "5.2")
CASES = {
    "0.2": [([0.5, 0.25, 0.1, 0.8],)],
    "2.1": [(["It", " is", " 100", " °", "C", "."],)],
    "5.1": [([3.0, 1.0], [20, 5])],
    "5.2": [("Water boils at 100 °C.", (3.0, 9), (2.0, 15))],
}


@pytest.mark.parametrize("number", NUMBERS)
def test_neither_a_message_nor_a_hint_has_the_right_value(number):
    """By the functions that are right: what they give is not in what is said."""
    right = np.ravel(RIGHT[number][0](*CASES[number][0]))[-1]
    said = [problem_of(number, lambda *_: 12345.0), *EXERCISES[number].hints]
    assert "12340.0" in said[0] and f"{right:.3g}" not in " ".join(said)


def test_the_numbers_in_hints():
    """Worked numbers, computed once more."""

    def holds(number, *values):
        text = " ".join(EXERCISES[number].hints)
        assert all(value in text for value in values), (text, values)

    holds("0.3", "softmax gives {:.2f} and {:.2f}".format(*np_softmax([1, 0], 0.5)))
    holds("2.1", f'`len("°".encode())` is {len("°".encode())}', "8 bytes in 2 tokens, so 4")
    assert len(b"tea time") == 8
    assert alone([[5, 6, 7], [8, 9]], 2, 0)[3:] == [[0]]
    holds("3.2", "four blocks, the last of them [0]", "3, 3 and 2")
    assert [len(block) for block in alone([[7] * 7], 3, 0)] == [3, 3, 2]
    holds("4.2", "become {:.1f} and −{:.1f}".format(*abs(autograd_step([0.0, 0.0], 0, 0.2))))
    holds("5.1", f"{np.average([2, 4], weights=[30, 10]):.1f} per token", f"{math.log(2):.2f} one")
    holds("5.2", f"{24 / math.log(2):.1f} bits", f"{better('x' * 20, (2, 12))[1]:.2f} each")
    assert round(6.9 / math.log(2)) == 10
    holds("5.3", f"{math.exp(2.2 - 2.6):.2f} times")
    of_four = [np_softmax([4, 3, 2.5, 2], t)[0] for t in (1, 3)]
    holds("6.3", "{:.2f} at temperature 1 and {:.2f} at 3".format(*of_four))


def test_the_state_is_one_file(state, capsys):
    check("5.1", lambda losses, tokens: sum(losses) / sum(tokens))
    assert "not right yet" in capsys.readouterr().out
    hint("5.1")
    hint("5.1")
    printed = capsys.readouterr().out
    assert printed.count("Hint 1 of 3") == 2 and printed.count("Hint 2 of 3") == 1
    check("5.1", over_tokens)
    assert json.loads(state.read_text())["5.1"] == {"tries": 2, "solved": True, "hints": 2}
    check("5.1", lambda losses, tokens: 0)  # what was solved once stays so
    capsys.readouterr()
    progress()
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("5.1"))
    assert row.split()[-3:] == ["yes", "3", "2"] and lines[-1] == "1 of 21 are solved."
    for _ in range(5):
        hint("5.1")
    assert json.loads(state.read_text())["5.1"]["hints"] == 3


def test_a_damaged_state_is_begun_anew(state):
    state.parent.mkdir()
    state.write_text("{")
    check("5.1", over_tokens)
    assert json.loads(state.read_text())["5.1"]["solved"]


FUNCTIONS = [number for number in EXERCISES if callable(RIGHT[number][0])]


@pytest.mark.parametrize("number", FUNCTIONS)
def test_a_function_without_return_is_a_try(number, state, capsys):
    check(number, lambda *arguments: print(len(arguments)))
    assert NO_RETURN in capsys.readouterr().out
    assert json.loads(state.read_text())[number]["tries"] == 1
    check(number, lambda *arguments: ...)
    assert NOTHING_YET in capsys.readouterr().out
    assert json.loads(state.read_text())[number]["tries"] == 1


def endless(*arguments):
    count = 0
    while True:
        count += 1


@pytest.mark.parametrize("number", FUNCTIONS)
def test_a_loop_without_an_end_is_stopped(number, monkeypatch):
    monkeypatch.setattr(exercise, "LIMIT", 0.2)
    began, before = time.thread_time(), sys.gettrace()
    assert "has not ended after 0.2 seconds" in problem_of(number, endless)
    assert time.thread_time() - began < 2 and sys.gettrace() is before
    assert 2 <= LIMIT <= 10


def test_an_iterator_without_an_end_is_stopped_in_every_thread(monkeypatch):
    monkeypatch.setattr(exercise, "LIMIT", 0.2)

    def counted(*arguments):
        while True:
            yield 1

    with ThreadPoolExecutor() as pool:
        assert "has not ended" in pool.submit(problem_of, "3.2", counted).result(60)


def test_a_right_answer_may_get_a_remark(state, capsys):
    check("3.3", first_fit)
    printed = capsys.readouterr().out
    assert printed.startswith("3.3 is right. [3, 3, 3, 11, 11, 11] takes one block more than the 3")
    check("3.3", longest_first)
    assert capsys.readouterr().out == "3.3 is right.\n"
    assert json.loads(state.read_text())["3.3"] == {"tries": 2, "solved": True, "hints": 0}


def test_groups_are_dealt_before_the_dots_are_replaced(state, capsys):
    check("1.3", lambda groups: [...] * len(groups))
    assert NOTHING_YET in capsys.readouterr().out and not state.exists()


def test_an_exercise_that_does_not_exist(state):
    for call in (lambda: check("3.4", 1), lambda: hint("3.4")):
        with pytest.raises(UserError, match=r"There is no exercise '3\.4': the nearest is '3\."):
            call()


def test_a_function_that_changes_its_input_does_no_harm():
    """The input of each call is a copy."""

    def cut(documents, size, eos):
        blocks = []
        while documents:
            ids = [*documents.pop(0), eos]
            blocks += [ids[i : i + size] for i in range(0, len(ids), size)]
        return blocks

    assert problem_of("3.2", cut) is None
    assert problem_of("3.2", cut) is None


@pytest.mark.parametrize(
    "given, expected, equal",
    [
        (2.996, 3.0, True),
        (2.9, 3.0, False),
        ([3], 3, True),
        (3.0, 3, True),
        (3.01, 3, False),
        (True, 1, False),
        ("3", 3, False),
        (math.nan, 3.0, False),
        ([1, 2], [1, 2, 3], False),
        (1j, 1.0, False),
        (None, None, True),
        (0.0, None, False),
    ],
)
def test_same(given, expected, equal):
    assert same(given, expected) is equal


def test_by_cases_says_what_it_saw():
    judge = by_cases(abs, [(-3,)], [(lambda x: x, "The sign.")], "Look at `abs`.")
    assert judge(abs) is None
    assert judge(lambda x: x) == "For -3 the function returns -3. The sign."
    assert judge(lambda x: 7) == "For -3 the function returns 7. Look at `abs`."
    assert "stops with KeyError: 'no'" in judge(lambda x: {}["no"])
