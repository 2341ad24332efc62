"""Numbers as people read them: three digits and a prefix of thousands."""

PREFIXES = ("", "k", "M", "G", "T", "P")


def short(value: float) -> str:
    """Returns three digits and a decimal prefix: "512", "7.81k", "45.1G"."""
    for prefix in PREFIXES[:-1]:
        if abs(value) < 999.5:
            return f"{value:.3g}{prefix}"
        value /= 1000
    return f"{value:.3g}{PREFIXES[-1]}"


def size(num_bytes: float) -> str:
    """Returns a number of bytes, powers of 1000 as the makers of memory and disks count: "300 B", "12.9 kB", "79.6 GB"."""
    digits = short(num_bytes)
    number = digits.rstrip("".join(PREFIXES))
    return f"{number} {digits[len(number) :]}B"
