"""Random numbers that nobody can foresee: the noise and the draws of private training.

AES-256 in counter mode (NIST SP 800-38A, section 6.5) under a key that the operating system draws
and that never leaves the process. A seed would let whoever knows it take the noise off again, so
there is none: two runs of the same request differ.
"""

import os

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from torch import Tensor

_KEY_BYTES = 32
_BLOCK_BYTES = 16
_WORD_BYTES = 8
_MANTISSA_BITS = 53  # of a float64
_CHUNK = 1 << 17  # normals made at once: 1 MiB of keystream, which a processor's cache holds
_ZEROS = bytes(_CHUNK * _WORD_BYTES)


class Keystream:
    """What AES-256-CTR adds to a text, from counter 0 on."""

    def __init__(self, key: bytes) -> None:
        """Take a key of 32 bytes that is used for nothing else: the counter starts at zero."""
        self._cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(_BLOCK_BYTES))).encryptor()

    def read(self, count: int) -> bytearray:
        """Return the next ``count`` bytes."""
        out = bytearray(count + _BLOCK_BYTES - 1)  # the room that update_into asks for
        start = 0
        with memoryview(out) as room:
            while start < count:
                length = min(count - start, len(_ZEROS))
                self._cipher.update_into(memoryview(_ZEROS)[:length], room[start:])
                start += length
        del out[count:]
        return out


class SecureRandom:
    """Uniform, yes-or-no and Gaussian numbers from a keystream of its own.

    One thread at a time. A forked process draws a key of its own.
    """

    def __init__(self) -> None:
        """Draw a key from the operating system; there is no other way to start."""
        self._renew()

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return (count,) independent words of 64 random bits."""
        return np.frombuffer(self._read(count * _WORD_BYTES), dtype="<u8")

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return (count,) numbers in [0, 1), multiples of 2^-53."""
        shifted = self.words(count) >> np.uint64(64 - _MANTISSA_BITS)
        return shifted.astype(np.float64) * 2.0**-_MANTISSA_BITS

    def bernoulli(self, count: int, *, rate: float) -> NDArray[np.bool_]:
        """Return (count,) independent answers, each true with probability ``rate``."""
        return self.uniforms(count) < rate

    def subset(self, values: NDArray[np.int64], *, size: int) -> NDArray[np.int64]:
        """Return ``size`` of the values without repeating one, every such set equally likely.

        All of them, as they stand, where there are no more.
        """
        if len(values) <= size:
            return values
        # Two equal words among n have a chance of n²/2^65: nobody has so many pictures.
        return values[np.argsort(self.words(len(values)))[:size]]

    def seed(self) -> int:
        """Return a seed in [0, 2^63) for a generator whose numbers protect nobody by themselves."""
        return int(self.words(1)[0] >> np.uint64(1))

    def generator(self) -> torch.Generator:
        """Return a torch generator on the CPU, for augmentation; never for noise."""
        return torch.Generator().manual_seed(self.seed())

    def add_normals(self, values: Tensor, *, deviation: float) -> None:
        """Add independent normal numbers of mean 0 to a contiguous tensor, in place.

        Box & Muller 1958, https://doi.org/10.1214/aoms/1177706645, eq. 1, with 53-bit uniforms, in
        double precision and on the tensor's device; the sum is rounded to the tensor's precision
        at the end. No number lies beyond 8.6 deviations (a true one does once in 10^17).

        Rounding leaves traces that a continuous Gaussian has not (Mironov 2012,
        https://doi.org/10.1145/2382196.2382264). Rounding the double sum to single precision
        hides the low bits of the noise; it is not a discrete mechanism with a proof for them.
        """
        flat = values.view(-1)
        for start in range(0, len(flat), _CHUNK):
            part = flat[start : start + _CHUNK]
            noise = self._normals(len(part), device=part.device).mul_(deviation)
            part.copy_(noise.add_(part))

    def normals(self, count: int) -> Tensor:
        """Return (count,) independent standard normal numbers, float64 on the CPU."""
        values = torch.zeros(count, dtype=torch.float64)
        self.add_normals(values, deviation=1.0)
        return values

    def _normals(self, count: int, *, device: torch.device) -> Tensor:
        """Return (count,) standard normal numbers, float64; ``count`` at most a chunk."""
        half = (count + 1) // 2
        words = torch.frombuffer(self._read(2 * half * _WORD_BYTES), dtype=torch.int64).to(device)
        # The shift of a signed word drags its sign along.
        bits = words.bitwise_right_shift_(64 - _MANTISSA_BITS).bitwise_and_((1 << 53) - 1)
        uniform = bits.double().mul_(2.0**-_MANTISSA_BITS)
        # 1 - u lies in (0, 1], where the logarithm is finite.
        radius = uniform[:half].neg_().log1p_().mul_(-2).sqrt_()
        angle = uniform[half:].mul_(2 * torch.pi)
        return torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)])[:count]

    def _read(self, count: int) -> bytearray:
        if self._process != os.getpid():
            self._renew()  # else parent and child would use the same noise
        return self._stream.read(count)

    def _renew(self) -> None:
        self._process = os.getpid()
        self._stream = Keystream(os.urandom(_KEY_BYTES))
