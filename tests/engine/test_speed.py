"""The precision that is chosen, and the share of the arithmetic peak."""

from types import SimpleNamespace

import pytest
import torch

import helpers.engine.speed
from helpers.engine.speed import choose_dtype, peak_share, tf32
from helpers.errors import ParameterError
from tests.small_models import small


def test_the_share_of_the_peak(monkeypatch):
    """By the sizes of the model, counted by hand."""
    monkeypatch.setattr(
        helpers.engine.speed, "product_seconds", lambda dtype, size, device: 2 * size**3 / 1e9
    )  # a peak of 1e9
    linear = 2 * (32 * 96 + 32 * 32 + 2 * 32 * 128) + 64 * 32
    assert peak_share(small(), 100.0, 16, "float32") == pytest.approx(
        100 * (6 * linear + 12 * 2 * 32 * 16) / 1e9
    )


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_dtype_that_is_asked_for_is_used(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        helpers.engine.speed,
        "product_seconds",
        lambda dtype: pytest.fail("nothing is to be measured"),
    )
    assert choose_dtype(name) == name


@pytest.fixture
def product_takes(monkeypatch):
    """Sets the seconds of a matrix product by its dtype, without a GPU; the first takes longer."""
    clock, done = [0.0], []

    def set_seconds(**seconds):
        def product(a, b):
            clock[0] += seconds[str(a.dtype).removeprefix("torch.")] + (
                0 if a.dtype in done else 100
            )
            done.append(a.dtype)
            return a

        monkeypatch.setattr(torch.Tensor, "__matmul__", product)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        helpers.engine.speed, "time", SimpleNamespace(perf_counter=lambda: clock[0])
    )
    return set_seconds


@pytest.mark.parametrize(
    ("float32", "bfloat16", "chosen"), [(4, 2, "bfloat16"), (2.8, 2, "float32"), (1, 3, "float32")]
)
def test_auto_follows_what_products_take_on_this_machine(float32, bfloat16, chosen, product_takes):
    product_takes(float32=float32, bfloat16=bfloat16)
    assert choose_dtype() == choose_dtype("auto") == chosen


def test_auto_is_not_misled_when_another_program_takes_the_processor(monkeypatch):
    measured = iter([2.0, 4.0, 2.0, 0.5, 2.0, 0.5])  # the first product in bfloat16 had to wait
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(helpers.engine.speed, "product_seconds", lambda dtype: next(measured))
    assert choose_dtype() == "bfloat16"


def test_what_auto_was_is_kept_for_a_resumption(product_takes, tmp_path):
    product_takes(float32=4, bfloat16=2)
    assert choose_dtype("auto", tmp_path) == "bfloat16"
    product_takes(float32=2, bfloat16=4)  # as on another, or a busy, machine
    assert choose_dtype("auto", tmp_path) == "bfloat16"
    assert choose_dtype("float32", tmp_path) == "float32"
    assert choose_dtype("auto") == "float32"


def emulated_unless(native):
    """As PyTorch says it: an older GPU computes in bfloat16 too, slowly."""
    return lambda including_emulation=True: native or including_emulation


@pytest.mark.parametrize("has", [True, False])
def test_on_a_gpu_bfloat16_is_used_where_it_is(has, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", emulated_unless(has))
    assert choose_dtype("auto") == ("bfloat16" if has else "float32")
    assert choose_dtype("float32") == "float32"
    if has:
        assert choose_dtype("bfloat16") == "bfloat16"
    else:
        with pytest.raises(ParameterError, match="compute_dtype is 'bfloat16'.*'float32'"):
            choose_dtype("bfloat16")


@pytest.fixture
def precision_of_products():
    """What the process had before, afterwards."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision(before)


def test_tf32_leaves_both_switches_of_pytorch_alike(precision_of_products):
    """transformers sets the newer one for a compiled model, torch.compile reads the older one."""
    with tf32("cpu"):
        assert torch.get_float32_matmul_precision() == "highest"
    torch.backends.fp32_precision = "tf32"
    with pytest.raises(RuntimeError, match="mix of the legacy and new APIs"):
        torch.get_float32_matmul_precision()
    with tf32("cuda"):
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.get_float32_matmul_precision() == "highest"
