"""A prompt continued: by the seed alone, from the distribution that was asked for, within the
context, up to the end of text.
"""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from helpers.errors import ParameterError
from helpers.generation import check_prompt, continuations, continue_text, continue_texts
from helpers.models import context_length, load_model

PROMPT = "The sky is blue because the"


@pytest.fixture(scope="module")
def model():
    return load_model("embedded")


@pytest.fixture
def always(tokenizer):
    """Makes a model that writes one token, whatever came before."""

    def make(token):
        config = GPT2Config(
            vocab_size=len(tokenizer), n_positions=64, n_layer=1, n_embd=8, n_head=1
        )
        model = GPT2LMHeadModel(config).eval()
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(len(tokenizer), 8))
        model.lm_head.weight.data[token] = 100.0
        model.transformer.ln_f.weight.data.zero_()
        model.transformer.ln_f.bias.data.fill_(1.0)
        return model

    return make


def token_by_token(model, tokenizer, prompt, count, choose):
    """The slow way: no cache, the whole text again for each token."""
    ids = tokenizer(prompt).input_ids
    for _ in range(count):
        with torch.no_grad():
            token = choose(model(torch.tensor([ids])).logits[0, -1])
        ids.append(token)
        if token == tokenizer.eos_token_id:
            break
    return tokenizer.decode(ids, skip_special_tokens=True)


def test_the_same_seed_writes_the_same_text(model, tokenizer):
    first = continue_text(model, tokenizer, PROMPT, 30, seed=3)
    torch.rand(7)
    assert continue_text(model, tokenizer, PROMPT, 30, seed=3) == first


def test_different_seeds_write_different_texts(model, tokenizer):
    assert len({continue_text(model, tokenizer, PROMPT, 30, seed=seed) for seed in range(5)}) == 5


def test_a_model_in_training_writes_the_same_and_nothing_of_it_is_changed(model, tokenizer):
    """Neither its mode nor the numbers that the training draws next."""
    right = continue_text(model, tokenizer, PROMPT, 30, seed=3)
    in_training = copy.deepcopy(model).train()
    in_training.transformer.drop.p = 0.5
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    assert continue_text(in_training, tokenizer, PROMPT, 30, seed=3) == right
    assert torch.equal(torch.rand(3), expected)
    assert in_training.training and in_training.transformer.drop.training
    assert not model.training


@pytest.mark.parametrize("seed", [0, 1])
def test_top_k_1_is_greedy(seed, model, tokenizer):
    greedy = token_by_token(model, tokenizer, PROMPT, 20, lambda logits: int(logits.argmax()))
    assert continue_text(model, tokenizer, PROMPT, 20, top_k=1, seed=seed) == greedy


def test_prompts_of_different_lengths_are_continued_as_each_by_itself(model, tokenizer):
    """Greedily, since draws depend on what else is drawn in the batch."""
    prompts = [
        PROMPT,
        "Bread",
        "A knife cuts because its edge is so thin that",
        "Why is the sea salty?",
    ]
    greedy = [token_by_token(model, tokenizer, p, 12, lambda x: int(x.argmax())) for p in prompts]
    assert continue_texts(model, tokenizer, prompts, 12, top_k=1) == greedy
    assert tokenizer.pad_token is None  # what the training saves is left alone


def test_batches_write_what_generate_writes_for_each_prompt_without_padding(
    model, tokenizer, monkeypatch
):
    """Greedily; a frequent token stands for the end of a text, so that texts end anywhere."""
    monkeypatch.setattr("helpers.generation.BATCH", 2)
    model = copy.deepcopy(model)
    end = model.generation_config.eos_token_id = tokenizer(" the").input_ids[0]
    prompts = [PROMPT[:-4], "Bread", "A knife is so thin that", "Why is the sea salty?", "If it"]
    found = list(continuations(model, tokenizer, prompts, 12, top_k=1))
    kinds = set()
    for prompt, one in zip(prompts, found, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt")
        row = model.generate(**inputs, do_sample=False, max_new_tokens=12)[0]
        new = row[inputs.input_ids.shape[1] :].tolist()
        kinds.add(one.ended_by)
        assert one.prompt == prompt and one.tokens == len(new) - (new[-1] == end)
        assert one.ended_by == ("end of text" if new[-1] == end else "max_new_tokens")
        assert one.text == tokenizer.decode(row, skip_special_tokens=True)
    assert len(kinds) == 2 and len({one.tokens for one in found}) > 2


def test_every_batch_has_its_own_seed_and_comes_again_by_it(model, tokenizer, monkeypatch):
    monkeypatch.setattr("helpers.generation.BATCH", 2)
    found = list(continuations(model, tokenizer, [PROMPT] * 5, 8, seed=2**32 - 2))
    assert [one.seed for one in found] == [2**32 - 2] * 2 + [0] * 2 + [2]
    assert len({one.text for one in found}) == 5
    for first in (0, 2, 4):
        part = found[first : first + 2]
        assert part == list(continuations(model, tokenizer, [PROMPT] * len(part), 8, part[0].seed))


def test_no_prompts_give_no_texts(model, tokenizer):
    assert continue_texts(model, tokenizer, []) == []


def test_of_several_prompts_the_one_that_does_not_fit_is_refused(model, tokenizer):
    with pytest.raises(ParameterError, match="max_new_tokens is 200"):
        continue_texts(model, tokenizer, [PROMPT, "water " * 100], 200)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_without_cuts_it_draws_from_the_whole_distribution(temperature, model, tokenizer):
    torch.manual_seed(5)
    drawn = token_by_token(
        model,
        tokenizer,
        PROMPT,
        20,
        lambda logits: int(torch.multinomial((logits / temperature).softmax(-1), 1)),
    )
    assert (
        continue_text(model, tokenizer, PROMPT, 20, temperature, top_k=0, top_p=1.0, seed=5)
        == drawn
    )


def test_top_k_and_top_p_cut_the_tail(model, tokenizer):
    with torch.no_grad():
        likely = (
            model(torch.tensor([tokenizer(PROMPT).input_ids]))
            .logits[0, -1]
            .argsort(descending=True)
            .tolist()
        )

    def firsts(**cuts):
        return {
            continue_text(model, tokenizer, PROMPT, 1, 4.0, seed=seed, **cuts) for seed in range(12)
        }

    head = {
        tokenizer.decode([*tokenizer(PROMPT).input_ids, i], skip_special_tokens=True)
        for i in likely[:3]
    }
    cut = firsts(top_k=3, top_p=1.0)
    assert cut <= head
    assert len(cut) > 1
    assert len(firsts(top_k=0, top_p=1e-6)) == 1
    assert not firsts(top_k=0, top_p=1.0) <= head


def test_a_text_that_does_not_fit_is_refused_with_numbers(model, tokenizer):
    context, length = context_length(model), len(tokenizer(PROMPT).input_ids)
    room = context - length
    with pytest.raises(ParameterError) as error:
        continue_text(model, tokenizer, PROMPT, room + 1)
    assert f"max_new_tokens is {room + 1}:" in str(error.value)
    assert f"prompt of {length} tokens" in str(error.value)
    assert f"at most {room} more after {PROMPT!r}" in str(error.value)
    check_prompt(PROMPT, room, tokenizer, context)
    with pytest.raises(ParameterError, match="at most 0 more"):
        check_prompt("a " * 2 * context, 1, tokenizer, context)


def test_the_context_can_be_filled_to_the_last_token(always, tokenizer):
    letter = tokenizer.convert_tokens_to_ids("a")
    model = always(letter)
    room = 64 - len(tokenizer(PROMPT).input_ids)
    assert continue_text(model, tokenizer, PROMPT, room) == PROMPT + "a" * room


@pytest.mark.parametrize(
    "prompt", [PROMPT, "Wait , it 's  odd .\n\n\tIs n't it ?", "naïve – 雪が降る 🙂", " a ", "\n"]
)
def test_the_prompt_is_kept_at_the_start(prompt, model, tokenizer):
    assert continue_text(model, tokenizer, prompt, 20).startswith(prompt)


@given(prompt=st.text(min_size=1, max_size=12))
def test_any_prompt_is_kept(prompt, always, tokenizer):
    model = always(tokenizer.convert_tokens_to_ids("a"))
    assert continue_text(model, tokenizer, prompt, 3) == prompt + "aaa"


def test_it_stops_at_the_end_of_text(always, tokenizer):
    assert continue_text(always(tokenizer.eos_token_id), tokenizer, PROMPT, 20) == PROMPT


def test_no_prompt_is_refused_by_name(model, tokenizer):
    with pytest.raises(ParameterError, match="prompt is ''"):
        continue_text(model, tokenizer, "", 5)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_cannot_be_is_refused_by_name(seed, model, tokenizer):
    with pytest.raises(ParameterError, match=f"seed is {seed}"):
        continue_text(model, tokenizer, PROMPT, 5, seed=seed)
