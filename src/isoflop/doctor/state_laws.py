"""Laws of what is kept and counted: files, resuming, parameters, FLOPs."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from isoflop.doctor.compare import apart, differing
from isoflop.doctor.law import Law, Measurement
from isoflop.doctor.probe import random_tokens
from isoflop.doctor.subject import Subject


def _save_and_load(subject: Subject, seed: int) -> Measurement:
    """Tensors that are not the same bits after saving and loading, logits among them."""
    tokens = random_tokens(subject, seed)
    with tempfile.TemporaryDirectory() as folder:
        subject.save(Path(folder) / "model")
        loaded = subject.load(Path(folder) / "model")
    before = {**subject.model.state_dict(), "logits": subject.logits(tokens)}
    after = {**loaded.model.state_dict(), "logits": loaded.logits(tokens)}
    changed = differing(before, after)
    note = f"changed: {', '.join(changed[:3])}" if changed else f"{len(before)} compared"
    return Measurement(value=float(len(changed)), expected=0.0, note=note)


def _conversion(subject: Subject, seed: int) -> Measurement:
    """Largest relative difference of logits between this program and the other."""
    tokens = random_tokens(subject, seed)
    with tempfile.TemporaryDirectory() as folder:
        converted = subject.converted_logits(tokens, Path(folder))
    return Measurement(value=apart(converted, subject.logits(tokens)), expected=0.0)


def _resume(subject: Subject, seed: int) -> Measurement:
    """Tensors and rows that differ between a run in one go and a run stopped and resumed."""
    with tempfile.TemporaryDirectory() as folder:
        differences, what = subject.resume_differences(Path(folder), seed)
    return Measurement(value=float(differences), expected=0.0, note=what)


def _parameters(subject: Subject, seed: int) -> Measurement:
    """Parameters built, a tied weight once, over parameters counted on the config."""
    built = sum(parameter.numel() for parameter in subject.model.parameters())
    counted = subject.counted_parameters()
    return Measurement(value=built / counted, expected=1.0, note=f"{built:,} of {counted:,}")


def _flops(subject: Subject, seed: int) -> Measurement:
    """FLOPs that the profiler counts in a forward pass, over those counted on the config."""
    tokens = random_tokens(subject, seed)
    counted = subject.counted_forward_flops(*tokens.shape)
    loop = subject.experts_implementations()[0]
    # The profiler knows plain products only: neither fused attention nor, on CPU, grouped experts.
    with ExitStack() as stack:
        for context in (subject.experts_as(loop), sdpa_kernel(SDPBackend.MATH), torch.no_grad()):
            stack.enter_context(context)
        profiled = stack.enter_context(FlopCounterMode(display=False))
        subject.logits(tokens)
    total = profiled.get_total_flops()
    return Measurement(value=total / counted, expected=1.0, note=f"{total:,} of {counted:,}")


STATE_LAWS = (
    Law(
        name="save-and-load",
        meaning="A saved model is loaded again bit for bit, and so are its logits.",
        unit="tensors changed",
        tolerance=0.0,
        catches="pytorch/torchtitan#1222: the expert bias was saved as zeros",
        trains=False,
        check=_save_and_load,
    ),
    Law(
        name="conversion-keeps-logits",
        meaning="The same weights, converted, give the same logits in the other program: ours and "
        "transformers.",
        unit="relative difference",
        tolerance=2e-5,
        catches="allenai/OLMo-core#484, NVIDIA-NeMo/Megatron-Bridge#2381: other logits after "
        "conversion",
        trains=False,
        check=_conversion,
    ),
    Law(
        name="resume",
        meaning="Training that was stopped and resumed ends as training in one go, bit for bit.",
        unit="results changed",
        tolerance=0.0,
        catches="NVIDIA/Megatron-LM#761, #1570: optimiser state was lost or corrupted on resume",
        trains=True,
        check=_resume,
    ),
    Law(
        name="parameters-counted",
        meaning="The count of parameters on the config equals the built model.",
        unit="built / counted",
        tolerance=0.0,
        catches="PrimeIntellect-ai/prime-rl#778: total parameters were counted as active ones",
        trains=False,
        check=_parameters,
    ),
    Law(
        name="flops-counted",
        meaning="The count of FLOPs on the config equals what the profiler sees, router included.",
        unit="profiled / counted",
        tolerance=1e-6,
        catches="AI-Hypercomputer/maxtext PR#678, pytorch/torchtitan PR#4300: wrong FLOPs of "
        "Mixtures of Experts",
        trains=False,
        check=_flops,
    ),
)
"""In the order of the report."""
