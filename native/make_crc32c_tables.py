"""Writes native/crc32c_tables.h: the lookup tables and the stripe constants of crc32c.c.

Everything follows from the polynomial. Bits are reflected: bit 31 of a 32-bit register is x**0, bit 0 is x**31.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

POLYNOMIAL: Final = 0x82F63B78
STRIPES_BYTES: Final = {"LONG": 4096, "SHORT": 336}
"""Three stripes of LONG are worth it for big requests; three of SHORT, four times, cover one 4 KiB block."""


def times_x(value: int) -> int:
    """One step of the register: multiply by x modulo the polynomial."""
    return (value >> 1) ^ (POLYNOMIAL if value & 1 else 0)


def power_of_x(exponent: int) -> int:
    value = 0x80000000
    for _ in range(exponent):
        value = times_x(value)
    return value


def slicing_tables() -> list[list[int]]:
    """Table k advances one byte past k further bytes."""
    first = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = times_x(value)
        first.append(value)
    tables = [first]
    for _ in range(7):
        tables.append([(value >> 8) ^ first[value & 0xFF] for value in tables[-1]])
    return tables


def header_text() -> str:
    """The whole header. A carry-less product of two registers, put through the crc of a 64-bit word, is their
    product times x**33; so the constant that moves a register past n bytes is x**(8 * n - 33)."""
    lines = ["/* Written by make_crc32c_tables.py: do not edit. */", ""]
    for name, size_bytes in STRIPES_BYTES.items():
        lines.append(f"#define STRIPE_{name} {size_bytes}u")
        for stripes in (1, 2):
            constant = power_of_x(8 * size_bytes * stripes - 33)
            lines.append(f"#define SHIFT_{stripes}_{name} 0x{constant:08x}u")
    lines += ["", "static const uint32_t SLICES[8][256] = {"]
    for table in slicing_tables():
        lines.append("    {")
        for start in range(0, 256, 8):
            lines.append("        " + " ".join(f"0x{value:08x}u," for value in table[start : start + 8]))
        lines.append("    },")
    return "\n".join([*lines, "};", ""])


if __name__ == "__main__":
    Path(__file__).with_name("crc32c_tables.h").write_text(header_text(), encoding="ascii")
