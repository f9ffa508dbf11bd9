"""What the law on bfloat16 sees, and what laws in float32 cannot."""

import torch

from fakes_doctor import ours
from isoflop.doctor.law import judge
from isoflop.doctor.laws import LAWS
from isoflop.model import moe

BY_NAME = {law.name: law for law in LAWS}


def test_products_that_lose_bits_in_bfloat16_are_seen(monkeypatch):
    """As a wrong rounding of a compiler's or processor's own would."""
    original = moe.EXPERTS["padded"]

    def experts(x, *rest):
        if x.dtype == torch.bfloat16:
            kept = (x.view(torch.int16) & -16).view(torch.bfloat16)
            x = x + (kept - x).detach()
        return original(x, *rest)

    monkeypatch.setitem(moe.EXPERTS, "padded", experts)
    assert judge(BY_NAME["expert-implementations-agree"], ours(), 0).verdict == "pass"
    assert judge(BY_NAME["bfloat16-is-near-float32"], ours(), 0).verdict == "fail"
