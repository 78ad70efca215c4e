"""Make vectors of the texts of a table: hashed n-grams of words and characters, and a singular value decomposition.

No network, no download: texts that share words or parts of words get vectors of similar direction.

    python examples/text_vectors.py items.parquet text_vectors.parquet --id item_id --text title --dim 128
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.pipeline import make_pipeline, make_union

FEATURES = 2**18
"""Columns that n-grams are hashed into."""
MOST = 200_000
"""Texts that the decomposition is fitted to, at most."""


def text_vectors(texts: list[str], dim: int, seed: int = 0) -> NDArray[np.float32]:
    """Make vectors of length 1 of texts, of zeros for a text without a letter: (N, dim)."""
    words = HashingVectorizer(n_features=FEATURES, ngram_range=(1, 2), alternate_sign=False)
    parts = HashingVectorizer(
        n_features=FEATURES, analyzer="char_wb", ngram_range=(3, 5), alternate_sign=False
    )
    grams = make_pipeline(make_union(words, parts), TfidfTransformer(sublinear_tf=True))
    some = np.random.default_rng(seed).permutation(len(texts))[:MOST]
    svd = TruncatedSVD(dim, random_state=seed)
    svd.fit(grams.fit_transform([texts[n] for n in some]))
    vectors = np.asarray(svd.transform(grams.transform(texts)), dtype=np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1)).astype(np.float32)


def main() -> None:
    """Read a table, and write the id and the vector of each of its rows as Parquet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("items", type=Path, help="a Parquet file")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--id", default="item_id", help="the column of the id")
    parser.add_argument("--text", nargs="+", required=True, help="columns of text, which are joined")
    parser.add_argument("--name", default="text", help="the column of the vectors, and so the feature's name")
    parser.add_argument("--dim", type=int, default=128)
    given = parser.parse_args()
    texts = pl.concat_str([pl.col(name).fill_null("") for name in given.text], separator=" ")
    items = pl.read_parquet(given.items).unique(given.id, keep="last", maintain_order=True)
    vectors = text_vectors(items.select(texts).to_series().to_list(), given.dim)
    items.select(given.id, pl.Series(given.name, vectors)).write_parquet(given.out)
    print(f"{given.out}: {len(items):,} vectors of {given.dim} numbers")


if __name__ == "__main__":
    main()
