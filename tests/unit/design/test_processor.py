"""What the plan takes this processor for is what its kernels do."""

import pytest

from isoflop.design.processor import fuses_experts
from isoflop.model.ops.build import native_available
from isoflop.model.ops.products import float32_tiles_available


@pytest.mark.skipif(not native_available(), reason="no C compiler here")
def test_the_plan_knows_what_the_kernels_of_this_machine_do():
    assert fuses_experts() == float32_tiles_available()


@pytest.mark.parametrize(
    ("vendor", "family", "flags", "fuses"),
    [
        ("GenuineIntel", "6", "sse4_2 avx2 fma", True),
        ("GenuineIntel", "6", "avx2 fma avx512f", False),
        ("GenuineIntel", "6", "avx2", False),
        ("AuthenticAMD", "23", "avx2 fma", True),
        ("AuthenticAMD", "25", "avx2 fma avx512f", True),
        ("AuthenticAMD", "26", "avx2 fma avx512f", True),
        ("AuthenticAMD", "27", "avx2 fma avx512f", False),
    ],
)
def test_processors_by_what_they_say(vendor, family, flags, fuses):
    facts = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nflags\t\t: {flags}\n"
    assert fuses_experts(facts + "\nprocessor\t: 1\n") == fuses


def test_a_processor_that_says_nothing_does_not():
    assert not fuses_experts("")
    assert not fuses_experts("processor : 0\nFeatures : fp asimd\n")
