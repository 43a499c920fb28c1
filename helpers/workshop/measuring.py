"""What doctor measures: other kernels, a kernel's answer, matrix products, a short training.

Imports what it needs inside the functions, since any of it may be missing.
"""

import contextlib
import io
import tempfile
import time
from pathlib import Path

BLOCK, BATCH, STEPS = 128, 8, 5  # tokens in a block, blocks in a step, steps
KERNEL_TIMEOUT = 30.0  # seconds
MOMENT = 0.5  # seconds


def other_kernels() -> list[float]:
    """The share of a core (per cent) that each kernel uses that is not a parent of this process."""
    import psutil

    own = {p.pid for p in psutil.Process().parents()}  # doctor may be called from a notebook
    kernels = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "ipykernel_launcher" in " ".join(process.info["cmdline"] or [])
        and process.pid not in own
    ]
    shares = []
    for pause in (0.0, MOMENT):  # cpu_percent counts from its last call on
        time.sleep(pause)
        shares = []
        for process in kernels:
            with contextlib.suppress(psutil.Error):  # it has ended
                shares.append(process.cpu_percent())
    return shares


def kernel_prefix() -> tuple[str, float]:
    """Where the Python of a new kernel is installed, and after how many seconds it answered."""
    from jupyter_client.manager import start_new_kernel

    began, printed = time.perf_counter(), []
    manager, client = start_new_kernel(KERNEL_TIMEOUT, "python3")
    try:
        client.execute_interactive(
            "import sys; print(sys.prefix)",
            store_history=False,
            timeout=KERNEL_TIMEOUT,
            output_hook=lambda message: printed.append(message["content"].get("text", "")),
        )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return "".join(printed).strip(), time.perf_counter() - began


def products() -> tuple[str, float, float]:
    """The device, its float32 speed (GFLOPS), and how many times faster bfloat16 is."""
    import torch

    from helpers.engine.speed import product_seconds

    device, size = ("cuda", 4096) if torch.cuda.is_available() else ("cpu", 768)
    plain, half = (product_seconds(t, size, device) for t in (torch.float32, torch.bfloat16))
    name = torch.cuda.get_device_name() if device == "cuda" else "no GPU"
    return name, 2 * size**3 / plain / 1e9, plain / half


def training_speed() -> float:
    """Tokens per second in a few steps of training the embedded model, after one to warm up."""
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        ends = _train()
    return (len(ends) - 1) * BATCH * BLOCK / (ends[-1] - ends[0])


def _train() -> list[float]:
    """Train for STEPS + 1 steps, and return when each has ended."""
    from datasets import Dataset
    from transformers import TrainerCallback, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    from helpers.collation import collate
    from helpers.engine.speed import choose_dtype
    from helpers.engine.trainer import runtime_arguments
    from helpers.models import load_model
    from helpers.training import BlockTrainer

    ends = []

    class Clock(TrainerCallback):
        """Notes when a step ends."""

        def on_step_end(self, *_: object, **__: object) -> None:
            """Note the time."""
            ends.append(time.perf_counter())

    model, steps = load_model("embedded"), STEPS + 1
    row = {"input_ids": list(range(1, BLOCK + 1)), "position_ids": list(range(BLOCK))}
    blocks = Dataset.from_list([row] * (steps * BATCH))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        arguments = TrainingArguments(
            **runtime_arguments(Path(folder), model, choose_dtype()),
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            save_strategy="no",
        )
        trainer = BlockTrainer(
            model, arguments, train_dataset=blocks, data_collator=collate, callbacks=[Clock()]
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return ends
