"""The generator against AES itself and against the distributions it promises.

Bounds of statistical tests are so wide that a right generator misses one once in a million runs.
"""

import multiprocessing
import os

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

from common.private.secure_random import Keystream, SecureRandom

RARE = 1e-6


def test_the_keystream_is_that_of_the_standard() -> None:
    # NIST SP 800-38A, section 6.5: the encrypted counters, one block after the other.
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - single blocks
    expected = b"".join(block.update(n.to_bytes(16, "big")) for n in range(5))

    stream = Keystream(key)

    assert stream.read(7) + stream.read(0) + stream.read(73) == expected


def test_a_long_read_is_the_same_stream() -> None:
    key, count = os.urandom(32), 3_000_001
    whole = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(count))

    assert Keystream(key).read(count) == whole


def test_two_generators_differ() -> None:
    first, second = SecureRandom(), SecureRandom()

    assert not np.array_equal(first.words(4), second.words(4))
    assert first.seed() != second.seed()
    assert not torch.equal(first.normals(8), second.normals(8))


def test_one_generator_never_repeats_itself() -> None:
    random = SecureRandom()

    drawn = np.concatenate([random.words(1000) for _ in range(3)])

    assert len(np.unique(drawn)) == 3000


def test_every_bit_is_as_often_one_as_zero() -> None:
    count = 100_000
    words = SecureRandom().words(count)

    ones = [int((words >> np.uint64(bit) & np.uint64(1)).sum()) for bit in range(64)]

    assert min(stats.binomtest(n, count).pvalue for n in ones) > RARE / 64


def test_uniforms_fill_the_unit_interval_in_steps_of_53_bits() -> None:
    uniforms = SecureRandom().uniforms(200_000)

    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    assert np.array_equal(uniforms * 2**53, np.floor(uniforms * 2**53))
    assert (uniforms * 2**53 % 2).mean() == pytest.approx(0.5, abs=0.01)  # the last bit lives
    assert stats.kstest(uniforms, "uniform").pvalue > RARE


@pytest.mark.parametrize("count", [1, 2, 3, 100_001, 400_000])
def test_normals_are_normal(count: int) -> None:
    drawn = SecureRandom().normals(count)

    assert drawn.shape == (count,)
    assert drawn.dtype == torch.float64
    assert bool(drawn.isfinite().all())
    assert stats.kstest(drawn.numpy(), "norm").pvalue > RARE


def test_the_two_normals_of_a_pair_are_independent() -> None:
    drawn = SecureRandom().normals(100_000).numpy()
    first, second = np.split(drawn, 2)

    for left, right in ((first, second), (first**2, second**2), (np.abs(first), second)):
        assert abs(np.corrcoef(left, right)[0, 1]) < 5 / np.sqrt(len(first))


def test_the_tails_are_those_of_a_normal() -> None:
    count = 2_000_000
    beyond = int((SecureRandom().normals(count).abs() > 4).sum())

    assert stats.binomtest(beyond, count, 2 * stats.norm.sf(4)).pvalue > RARE


def test_noise_is_added_in_place_with_its_deviation() -> None:
    values = torch.full((300, 500), 7.0)

    SecureRandom().add_normals(values, deviation=0.25)

    assert values.dtype == torch.float32
    noise = (values.double() - 7).flatten().numpy() / 0.25
    assert stats.kstest(noise, "norm").pvalue > RARE


def test_a_coin_shows_heads_as_often_as_it_should() -> None:
    count = 200_000
    heads = SecureRandom().bernoulli(count, rate=0.03)

    assert stats.binomtest(int(heads.sum()), count, 0.03).pvalue > RARE
    assert SecureRandom().bernoulli(1000, rate=1.0).all()


def test_every_subset_is_equally_likely() -> None:
    random, values = SecureRandom(), np.arange(10, 15)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(5000):
        subset = tuple(sorted(random.subset(values, size=2).tolist()))
        counts[subset] = counts.get(subset, 0) + 1

    assert len(counts) == 10
    assert stats.chisquare(list(counts.values())).pvalue > RARE
    assert np.array_equal(random.subset(values, size=9), values)


def test_a_forked_process_has_noise_of_its_own() -> None:
    random = SecureRandom()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(random.words(4).tolist()))
    child.start()
    drawn = receiver.recv()
    child.join()

    assert drawn != random.words(4).tolist()


def test_the_seeds_of_python_numpy_and_torch_do_not_matter() -> None:
    drawn = []
    for _ in range(2):
        np.random.seed(0)
        torch.manual_seed(0)
        drawn.append(SecureRandom().words(4).tolist())

    assert drawn[0] != drawn[1]
