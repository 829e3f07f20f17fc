"""How much of the classes each modality tells: linear probes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mcil.errors import McilError

if TYPE_CHECKING:
    from mcil.data.store import FeatureStore

_CHUNK = 256


def probe(store: FeatureStore) -> dict[str, float]:
    """Train a linear classifier on the train split and measure it on the test split.

    The visual features (L,S,D) are averaged over L and S; "both" puts the two vectors side by side. The classifier
    is logistic regression on standardised features, with scikit-learn's L2 penalty at C = 0.1.

    Returns:
        Test accuracy in percent under the keys ``audio``, ``visual`` and ``both``.

    Raises:
        McilError: the store lacks a modality, or its train or test split is empty.
    """
    labels, splits = np.array(store.labels), np.array(store.splits)
    train, test = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "test")
    if not len(train) or not len(test) or {"audio", "visual"} - set(store.shapes):
        raise McilError(f"{store}: a probe needs audio and visual features and clips to train and to test on")
    audio = _pooled(store, "audio", len(labels))
    visual = _pooled(store, "visual", len(labels))
    features = {"audio": audio, "visual": visual, "both": np.concatenate([audio, visual], axis=1)}
    return {name: _accuracy(values, labels, train, test) for name, values in features.items()}


def _pooled(store: FeatureStore, name: Any, rows: int) -> npt.NDArray[np.float32]:
    """All rows of an array, averaged over all axes but the first and the last: float32 (rows, D)."""
    parts = []
    for start in range(0, rows, _CHUNK):
        values = store.read(name, np.arange(start, min(start + _CHUNK, rows))).float().numpy()
        parts.append(values.reshape(len(values), -1, values.shape[-1]).mean(axis=1))
    return np.concatenate(parts)


def _accuracy(
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.str_],
    train: npt.NDArray[np.int64],
    test: npt.NDArray[np.int64],
) -> float:
    """Percent of the test rows that a linear classifier fitted to the train rows gets right."""
    # Here, because each process that makes clips would otherwise load scikit-learn, which takes seconds.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    classifier.fit(features[train], labels[train])
    return 100.0 * float(classifier.score(features[test], labels[test]))
