"""How this processor computes float32 experts, read without torch, so that planning starts at once.

The kernels decide it where they are compiled (`model/ops/products_float32.c`); a test holds both equal.
"""

from pathlib import Path

CPU_FACTS = Path("/proc/cpuinfo")

ZEN_FAMILIES = ("25", "26")
"""AMD's Zen 3 and 4, and Zen 5: own tiles are the faster ones there with AVX-512 too."""


def fuses_experts(facts: str | None = None) -> bool:
    """Whether `ops="native"` computes float32 experts in one pass here, and so keeps less.

    Args:
        facts: Text as of /proc/cpuinfo; None: this machine's. Where there is none, the answer is no.
    """
    if facts is None:
        try:
            facts = CPU_FACTS.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
    # Of the first core; the others are alike.
    lines = (line.partition(":") for line in facts.partition("\n\n")[0].splitlines())
    known = {name.strip(): value.strip() for name, _, value in lines}
    flags = known.get("flags", "").split()
    if "avx512f" in flags:
        return known.get("vendor_id") == "AuthenticAMD" and known.get("cpu family") in ZEN_FAMILIES
    return "avx2" in flags and "fma" in flags
