"""LightGBM without scikit-learn, and whole beside it."""

from conftest import python


def test_lightgbm_is_a_copy_of_our_own_without_scikit_learn():
    """The whole of it is still there for whoever imports it beside ours, which then goes on with what it has."""
    code = (
        "import sys; from forecastbook.boosting import lightgbm as ours\n"
        "assert not {'sklearn', 'lightgbm', 'scipy.stats'} & set(sys.modules)\n"
        "import lightgbm, numpy as np; assert lightgbm is not ours\n"
        "x, y = np.random.default_rng(0).random((200, 3)), np.arange(200) % 2\n"
        "lightgbm.LGBMClassifier(n_estimators=2, verbose=-1).fit(x, y)\n"
        "print(ours.train({'verbose': -1}, ours.Dataset(x, y), num_boost_round=2).num_trees())"
    )
    child = python(code)
    said, trouble = child.communicate(timeout=60)
    assert (child.returncode, said) == (0, "2\n"), trouble
