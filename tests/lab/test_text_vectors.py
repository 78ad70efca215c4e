"""Vectors of texts: equal to scikit-learn's latent semantic analysis."""

import numpy as np
import pytest

from corank.core.types import Floats, Mask
from corank_lab.datasets.text_vectors import count_words, embed_texts

SUBJECTS = ("goal match league cup player", "bank rate loan share profit", "storm rain wind flood snow")


def write_texts(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(SUBJECTS[n % 3].split(), 12)) for n in range(count)]


def train_mask(count: int) -> Mask:
    return np.arange(count) < count * 2 // 3


def test_the_vectors_are_those_of_latent_semantic_analysis() -> None:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfTransformer

    texts, train = write_texts(60), train_mask(60)
    counts = count_words(texts)
    weights = TfidfTransformer(sublinear_tf=True).fit(counts[train]).transform(counts)
    expected: Floats = (
        TruncatedSVD(3, algorithm="arpack", random_state=0).fit(weights[train]).transform(weights)
    )
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    vectors = embed_texts(texts, train, 3)
    # directions may point the other way
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, atol=1e-3)


def test_a_text_without_words_has_a_vector_of_zeros_and_few_texts_short_ones() -> None:
    vectors = embed_texts([*write_texts(9), "", "?"], np.array([True] * 11), 2)
    assert not vectors[9:].any() and np.linalg.norm(vectors[:9], axis=1) == pytest.approx(1)
    assert embed_texts(write_texts(4), np.array([True] * 4), 64).shape == (4, 3)
