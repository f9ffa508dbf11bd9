"""Data-parallel ranks as they really are: two processes, counts and gradients exchanged by gloo."""

import torch
from torch import multiprocessing

from fakes_doctor import balance_of_rank, ours, probing_batch
from isoflop.doctor.compare import relative_difference
from isoflop.doctor.law import judge
from isoflop.doctor.laws import LAWS
from isoflop.model.router import balance_loss

RANKS = 2


def test_two_processes_have_the_balance_gradient_of_one(tmp_path):
    """What the law `ranks-keep-balance` simulates in one process."""
    out = tmp_path / "gradients.pt"
    multiprocessing.spawn(balance_of_rank, (RANKS, str(tmp_path / "store"), str(out)), nprocs=RANKS)
    shared = torch.load(out, weights_only=True)
    subject = ours()
    statistics = subject._decoder.hidden(probing_batch())[1]
    balance_loss(statistics, "global").sum().backward()
    alone = {n: p.grad for n, p in subject.model.named_parameters() if p.grad is not None}
    assert relative_difference(shared, alone) < 1e-5
    law = next(law for law in LAWS if law.name == "ranks-keep-balance")
    subject.model.zero_grad(set_to_none=True)
    assert judge(law, subject, 0).verdict == "pass"
