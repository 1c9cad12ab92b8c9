"""The one way in which recipes cut a data set that comes without a split."""

import numpy as np

TEST_SHARE = 0.2
VAL_SHARE = 0.2
_SPLIT_SEED = 0  # a constant, never the seed of a run: every run of every method sees the same three sets


def split_indices(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts every class into the same shares of training, validation and test examples.

    `RandomState` and not `default_rng`: numpy promises its stream never changes, so the split is the same for everyone.

    Args:
        targets: Class of each example, shape `[n]`.

    Returns:
        Sorted indices of the training, validation and test examples: disjoint, and together all of them.
    """
    random = np.random.RandomState(_SPLIT_SEED)
    train, val, test = [], [], []
    for label in np.unique(targets):
        members = random.permutation(np.flatnonzero(targets == label))
        n_test, n_val = round(TEST_SHARE * len(members)), round(VAL_SHARE * len(members))
        test.append(members[:n_test])
        val.append(members[n_test : n_test + n_val])
        train.append(members[n_test + n_val :])
    return tuple(np.sort(np.concatenate(part)) for part in (train, val, test))  # type: ignore[return-value]
