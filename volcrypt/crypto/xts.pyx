# cython: freethreading_compatible=False
"""AES-256-XTS over many data units in one call (IEEE 1619, NIST SP 800-38E), on OpenSSL's EVP.

The unit of the cipher is a *data unit* of 4096 bytes. Its tweak is the 64-bit little-endian
count of 512-byte sectors from the start of the volume, zero-padded to 16 bytes: what dm-crypt
calls `aes-xts-plain64` and LUKS2 opens with `sector_size=4096`.

A loop over data units in Python costs more than ten microseconds a unit, nearly all of it object
creation and key schedule; here one context keeps the schedule and only the tweak changes.
Input and output may be the same buffer (in place); a partial overlap is refused.

This module knows nothing of volumes or of where keys come from; the rule of holes is here because
it is asked about every sector that is read. The loop itself is in `xts_units.h`.
"""

from cpython.buffer cimport PyObject_GetBuffer, PyBuffer_Release, PyBUF_SIMPLE, PyBUF_WRITABLE
from libc.stdint cimport uint64_t

cdef extern from "openssl/evp.h" nogil:
    ctypedef struct EVP_CIPHER
    ctypedef struct EVP_CIPHER_CTX
    ctypedef struct ENGINE
    const EVP_CIPHER *EVP_aes_256_xts()
    const EVP_CIPHER *EVP_aes_128_xts()
    EVP_CIPHER_CTX *EVP_CIPHER_CTX_new()
    void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *ctx)
    int EVP_CipherInit_ex(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *type, ENGINE *impl,
                          const unsigned char *key, const unsigned char *iv, int enc)

cdef extern from "openssl/crypto.h" nogil:
    int CRYPTO_memcmp(const void *a, const void *b, size_t length)

cdef extern from "xts_units.h" nogil:
    bint xts_is_zero(const unsigned char *data, size_t length)
    int xts_crypt(EVP_CIPHER_CTX *ctx, const unsigned char *src, unsigned char *dst,
                  size_t unit_bytes, size_t units, uint64_t tweak, uint64_t tweak_high, int encrypt)
    int xts_decrypt_sparse(EVP_CIPHER_CTX *ctx, const unsigned char *src, unsigned char *dst,
                           size_t units, uint64_t tweak)

cdef enum:
    UNIT = 4096
    SECTOR = 512
    SECTORS_PER_UNIT = 8
    # Modes of a run; the first two are what EVP_CipherInit_ex calls `enc`.
    DECRYPT = 0
    ENCRYPT = 1
    DECRYPT_SPARSE = 2
    # Below this a lock release and re-acquisition costs more than it lets others do.
    RELEASE_BYTES = 32768

KEY_BYTES = 64
DATA_UNIT_BYTES = UNIT


cdef int _run(EVP_CIPHER_CTX *ctx, int mode, const unsigned char *src, unsigned char *dst,
              size_t units, uint64_t tweak) noexcept nogil:
    if mode == DECRYPT_SPARSE:
        return xts_decrypt_sparse(ctx, src, dst, units, tweak)
    return xts_crypt(ctx, src, dst, UNIT, units, tweak, 0, mode)


cdef class XtsKernel:
    """The key schedules of one data key, ready to transform runs of data units.

    One kernel may be used by several threads only if they do not call it at the same time: an
    EVP context is not reentrant. Callers that want parallel work make a kernel per thread.
    """

    cdef EVP_CIPHER_CTX *_encrypt
    cdef EVP_CIPHER_CTX *_decrypt

    def __cinit__(self, key):
        """Take `key`, 64 bytes K1 || K2 (or 32 for AES-128, which only the test vectors use).

        Raises ValueError when the length is wrong or K1 equals K2: with equal halves XTS
        loses its proof (FIPS 140-3 IG C.I), and OpenSSL refuses that only when encrypting.
        """
        cdef Py_buffer view
        cdef const EVP_CIPHER *cipher
        cdef const unsigned char *material
        PyObject_GetBuffer(key, &view, PyBUF_SIMPLE)
        try:
            if view.len == 64:
                cipher = EVP_aes_256_xts()
            elif view.len == 32:
                cipher = EVP_aes_128_xts()
            else:
                raise ValueError("an XTS key has 64 bytes")
            material = <const unsigned char *> view.buf
            if CRYPTO_memcmp(material, material + view.len // 2, view.len // 2) == 0:
                raise ValueError("the halves of an XTS key must differ")
            self._encrypt = EVP_CIPHER_CTX_new()
            self._decrypt = EVP_CIPHER_CTX_new()
            if self._encrypt == NULL or self._decrypt == NULL:
                raise MemoryError
            if (EVP_CipherInit_ex(self._encrypt, cipher, NULL, material, NULL, 1) != 1
                    or EVP_CipherInit_ex(self._decrypt, cipher, NULL, material, NULL, 0) != 1):
                raise ValueError("OpenSSL refused the XTS key")
        finally:
            PyBuffer_Release(&view)

    def __dealloc__(self):
        # EVP_CIPHER_CTX_free cleanses the key schedule before it frees it.
        EVP_CIPHER_CTX_free(self._encrypt)
        EVP_CIPHER_CTX_free(self._decrypt)

    def __reduce__(self):
        raise TypeError("an XTS kernel holds a key and is never serialised")

    def wipe(self):
        """Forget the key now; every later call raises ValueError."""
        EVP_CIPHER_CTX_free(self._encrypt)
        EVP_CIPHER_CTX_free(self._decrypt)
        self._encrypt = NULL
        self._decrypt = NULL

    def encrypt_units(self, first_unit, source, destination):
        """Encrypt whole data units; `first_unit` counts units from the start of the volume."""
        self._transform(self._encrypt, ENCRYPT, first_unit, source, destination)

    def decrypt_units(self, first_unit, source, destination):
        """Decrypt whole data units; `first_unit` counts units from the start of the volume."""
        self._transform(self._decrypt, DECRYPT, first_unit, source, destination)

    def decrypt_sparse_units(self, first_unit, source, destination):
        """Decrypt whole data units by the rule of holes: a 512-byte sector of `source` that is
        all zero was never written, and gives zeros.

        The rule is per sector so that a write torn by a power cut over a hole reads old or new
        in each sector; a real ciphertext sector is all zero with probability 2**-4096.
        """
        self._transform(self._decrypt, DECRYPT_SPARSE, first_unit, source, destination)

    def encrypt_one(self, tweak, source, destination):
        """Encrypt `source` as one data unit of any length from 16 bytes, under a 128-bit tweak.

        Exists for the published test vectors, whose units are not 4096 bytes long.
        """
        self._transform_one(self._encrypt, ENCRYPT, tweak, source, destination)

    def decrypt_one(self, tweak, source, destination):
        """The inverse of `encrypt_one`."""
        self._transform_one(self._decrypt, DECRYPT, tweak, source, destination)

    cdef _transform(self, EVP_CIPHER_CTX *ctx, int mode, object first_unit,
                    object source, object destination):
        cdef Py_buffer src, dst
        cdef uint64_t tweak = first_unit * SECTORS_PER_UNIT
        cdef int done
        PyObject_GetBuffer(source, &src, PyBUF_SIMPLE)
        try:
            PyObject_GetBuffer(destination, &dst, PyBUF_SIMPLE | PyBUF_WRITABLE)
            try:
                _check_buffers(ctx, &src, &dst)
                if src.len % UNIT != 0:
                    raise ValueError("only whole data units can be transformed")
                if src.len and tweak + (src.len - 1) // SECTOR < tweak:
                    raise OverflowError("the run goes beyond the last tweak")
                if src.len >= RELEASE_BYTES:
                    with nogil:
                        done = _run(ctx, mode, <const unsigned char *> src.buf,
                                    <unsigned char *> dst.buf, src.len // UNIT, tweak)
                else:
                    done = _run(ctx, mode, <const unsigned char *> src.buf,
                                <unsigned char *> dst.buf, src.len // UNIT, tweak)
                if not done:
                    raise RuntimeError("internal error: OpenSSL refused a data unit")
            finally:
                PyBuffer_Release(&dst)
        finally:
            PyBuffer_Release(&src)

    cdef _transform_one(self, EVP_CIPHER_CTX *ctx, int encrypt, object tweak,
                        object source, object destination):
        cdef Py_buffer src, dst
        cdef uint64_t tweak_high = tweak >> 64
        cdef uint64_t tweak_low = tweak & 0xFFFFFFFFFFFFFFFF
        PyObject_GetBuffer(source, &src, PyBUF_SIMPLE)
        try:
            PyObject_GetBuffer(destination, &dst, PyBUF_SIMPLE | PyBUF_WRITABLE)
            try:
                _check_buffers(ctx, &src, &dst)
                if not xts_crypt(ctx, <const unsigned char *> src.buf, <unsigned char *> dst.buf,
                                 src.len, 1, tweak_low, tweak_high, encrypt):
                    raise ValueError("OpenSSL refused the data unit")
            finally:
                PyBuffer_Release(&dst)
        finally:
            PyBuffer_Release(&src)


cdef int _check_buffers(EVP_CIPHER_CTX *ctx, Py_buffer *src, Py_buffer *dst) except -1:
    cdef const char *a = <const char *> src.buf
    cdef const char *b = <const char *> dst.buf
    if ctx == NULL:
        raise ValueError("the key of this XTS kernel was wiped")
    if src.len != dst.len:
        raise ValueError("source and destination differ in length")
    if a != b and a < b + dst.len and b < a + src.len:
        raise ValueError("source and destination overlap partially")
    return 0


def is_zero(data):
    """True when every byte of `data` is zero (also when it is empty)."""
    cdef Py_buffer view
    cdef bint zero
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if view.len >= RELEASE_BYTES:
            with nogil:
                zero = xts_is_zero(<const unsigned char *> view.buf, view.len)
        else:
            zero = xts_is_zero(<const unsigned char *> view.buf, view.len)
        return bool(zero)
    finally:
        PyBuffer_Release(&view)
