/* CRC-32C (Castagnoli), reflected: the register goes in and comes out as it is, without inversion.
 *
 * x86: the crc32 instruction takes 3 cycles but a new one starts every cycle, so three stripes of the data are summed
 * side by side and joined with one carry-less multiplication each (the constants: make_crc32c_tables.py). ARMv8: its
 * crc32c instruction. Elsewhere: eight tables, eight bytes a step.
 */

#include "internal.h"

#include "crc32c_tables.h"

uint32_t pydrbd_crc32c_table(uint32_t crc, const uint8_t *data, size_t length) {
    for (; length >= 8; length -= 8, data += 8) {
        uint64_t word = get_le(data, 8) ^ crc;

        crc = SLICES[7][word & 0xff] ^ SLICES[6][(word >> 8) & 0xff] ^ SLICES[5][(word >> 16) & 0xff] ^
              SLICES[4][(word >> 24) & 0xff] ^ SLICES[3][(word >> 32) & 0xff] ^ SLICES[2][(word >> 40) & 0xff] ^
              SLICES[1][(word >> 48) & 0xff] ^ SLICES[0][word >> 56];
    }
    for (; length > 0; length--, data++) {
        crc = (crc >> 8) ^ SLICES[0][(crc ^ *data) & 0xff];
    }
    return crc;
}

#if defined(__x86_64__)

#include <nmmintrin.h>
#include <wmmintrin.h>

#define HARDWARE __attribute__((target("sse4.2,pclmul")))

int pydrbd_crc32c_is_hardware(void) {
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
}

/* The register after as many zero bytes as the constant stands for. */
HARDWARE static uint64_t shifted(uint64_t crc, uint32_t constant) {
    __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)crc), _mm_cvtsi32_si128((int)constant), 0);

    return _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

HARDWARE static inline uint64_t striped(uint64_t crc, const uint8_t *data, size_t stripe, uint32_t shift_1,
                                        uint32_t shift_2) {
    uint64_t second = 0;
    uint64_t third = 0;

    for (size_t i = 0; i < stripe; i += 8) {
        crc = _mm_crc32_u64(crc, get_le(data + i, 8));
        second = _mm_crc32_u64(second, get_le(data + stripe + i, 8));
        third = _mm_crc32_u64(third, get_le(data + 2 * stripe + i, 8));
    }
    return shifted(crc, shift_2) ^ shifted(second, shift_1) ^ third;
}

HARDWARE static uint32_t crc32c_hardware(uint32_t start, const uint8_t *data, size_t length) {
    uint64_t crc = start;

    for (; length >= 3 * STRIPE_LONG; length -= 3 * STRIPE_LONG, data += 3 * STRIPE_LONG) {
        crc = striped(crc, data, STRIPE_LONG, SHIFT_1_LONG, SHIFT_2_LONG);
    }
    for (; length >= 3 * STRIPE_SHORT; length -= 3 * STRIPE_SHORT, data += 3 * STRIPE_SHORT) {
        crc = striped(crc, data, STRIPE_SHORT, SHIFT_1_SHORT, SHIFT_2_SHORT);
    }
    for (; length >= 8; length -= 8, data += 8) {
        crc = _mm_crc32_u64(crc, get_le(data, 8));
    }
    for (; length > 0; length--, data++) {
        crc = _mm_crc32_u8((uint32_t)crc, *data);
    }
    return (uint32_t)crc;
}

#elif defined(__ARM_FEATURE_CRC32)

#include <arm_acle.h>

int pydrbd_crc32c_is_hardware(void) {
    return 1;
}

static uint32_t crc32c_hardware(uint32_t crc, const uint8_t *data, size_t length) {
    for (; length >= 8; length -= 8, data += 8) {
        crc = __crc32cd(crc, get_le(data, 8));
    }
    for (; length > 0; length--, data++) {
        crc = __crc32cb(crc, *data);
    }
    return crc;
}

#else

int pydrbd_crc32c_is_hardware(void) {
    return 0;
}

#define crc32c_hardware pydrbd_crc32c_table

#endif

uint32_t pydrbd_crc32c(uint32_t crc, const uint8_t *data, size_t length) {
    return pydrbd_crc32c_is_hardware() ? crc32c_hardware(crc, data, length) : pydrbd_crc32c_table(crc, data, length);
}
