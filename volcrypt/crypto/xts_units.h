/* The cipher loop over data units, for the interpreter (xts.pyx) and for the data plane.
 *
 * The unit of the cipher is a *data unit* of 4096 bytes. Its tweak is the little-endian count of
 * 512-byte sectors from the start of the volume, zero-padded to 16 bytes. `src` and `dst` are the
 * same or do not overlap. All functions return 1 on success, 0 when OpenSSL refused a unit.
 */
#ifndef VOLCRYPT_XTS_UNITS_H
#define VOLCRYPT_XTS_UNITS_H

#include <openssl/evp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { XTS_UNIT = 4096, XTS_SECTOR = 512, XTS_SECTORS_PER_UNIT = 8 };

static inline int xts_is_zero(const unsigned char *data, size_t length)
{
    /* Overlapping self-comparison: all bytes equal the first one, which is zero. */
    return length == 0 || (data[0] == 0 && memcmp(data, data + 1, length - 1) == 0);
}

/* Transform `units` units of `unit_bytes`; `tweak_high` is zero for every unit of a volume. */
static inline int xts_crypt(EVP_CIPHER_CTX *ctx, const unsigned char *src, unsigned char *dst,
                            size_t unit_bytes, size_t units, uint64_t tweak, uint64_t tweak_high,
                            int encrypt)
{
    unsigned char iv[16];
    int produced = 0;
    for (size_t i = 0; i < units; i++, tweak += XTS_SECTORS_PER_UNIT) {
        for (int j = 0; j < 8; j++) {
            iv[j] = (unsigned char)(tweak >> (8 * j));
            iv[8 + j] = (unsigned char)(tweak_high >> (8 * j));
        }
        if (EVP_CipherInit_ex(ctx, NULL, NULL, NULL, iv, encrypt) != 1)
            return 0;
        if (EVP_CipherUpdate(ctx, dst + i * unit_bytes, &produced, src + i * unit_bytes,
                             (int)unit_bytes) != 1)
            return 0;
        if (produced != (int)unit_bytes)
            return 0;
    }
    return 1;
}

/* Decrypt units of which some 512-byte sectors may be holes: all zero, and zeros they stay. */
static inline int xts_decrypt_sparse(EVP_CIPHER_CTX *ctx, const unsigned char *src,
                                     unsigned char *dst, size_t units, uint64_t tweak)
{
    for (size_t i = 0; i < units; i++, src += XTS_UNIT, dst += XTS_UNIT) {
        unsigned holes = 0;
        for (int j = 0; j < XTS_SECTORS_PER_UNIT; j++)
            if (xts_is_zero(src + j * XTS_SECTOR, XTS_SECTOR))
                holes |= 1u << j;
        if (holes == 0xFF) {
            memset(dst, 0, XTS_UNIT);
            continue;
        }
        if (!xts_crypt(ctx, src, dst, XTS_UNIT, 1, tweak + i * XTS_SECTORS_PER_UNIT, 0, 0))
            return 0;
        for (int j = 0; j < XTS_SECTORS_PER_UNIT; j++)
            if (holes & (1u << j))
                memset(dst + j * XTS_SECTOR, 0, XTS_SECTOR);
    }
    return 1;
}

#endif
