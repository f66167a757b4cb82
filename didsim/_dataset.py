"""Finite sets of preference pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from didsim._arrays import ArrayLike, IntArray
from didsim._checks import check_integer, message
from didsim.policy import MAX_CLASSES

MAX_PROMPTS = 100_000


@dataclass(frozen=True, eq=False)
class PreferenceDataset:
    """A finite set of n preference pairs, as class indices.

    Attributes:
        chosen: the classes of y_w, int64 [n], read-only.
        rejected: the classes of y_l, int64 [n], read-only.
        prompts: the prompt of each pair, int64 [n], read-only; zeros when there is none.
    """

    chosen: IntArray
    rejected: IntArray
    prompts: IntArray

    @classmethod
    def from_classes(
        cls,
        chosen: ArrayLike,
        rejected: ArrayLike,
        num_classes: int,
        prompts: ArrayLike | None = None,
        num_prompts: int = 1,
    ) -> "PreferenceDataset":
        """Check and copy equally long lists: classes in 0..K−1, and with prompts, which one each pair answers.

        Raises:
            ValueError: if they are empty, differ in length, or name a class or prompt that does not exist.
            TypeError: if a class or prompt is not a whole number.

        >>> len(PreferenceDataset.from_classes([0, 1], [2, 2], num_classes=3))
        2
        """
        check_integer("num_classes", num_classes, 1, MAX_CLASSES)
        check_integer("num_prompts", num_prompts, 1, MAX_PROMPTS)
        pair = _as_indices("chosen", chosen, num_classes), _as_indices("rejected", rejected, num_classes)
        if len(pair[0]) != len(pair[1]):
            raise ValueError(message("chosen and rejected", "equally long", (len(pair[0]), len(pair[1]))))
        asked = np.zeros(len(pair[0]), dtype=np.int64) if prompts is None else prompts
        rows = _as_indices("prompts", asked, num_prompts, "a prompt")
        if len(rows) != len(pair[0]):
            raise ValueError(message("prompts", f"as long as the pairs, {len(pair[0])}", len(rows)))
        return cls(*pair, rows)

    def __len__(self) -> int:
        return len(self.chosen)


def _as_indices(name: str, values: ArrayLike, count: int, what: str = "a class") -> IntArray:
    try:
        shape = np.shape(values)
    except ValueError as error:
        raise ValueError(message(f"the shape of {name}", "[n] with n ≥ 1", "a ragged list")) from error
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(message(f"the shape of {name}", "[n] with n ≥ 1", shape))
    if np.asarray(values).dtype.kind not in "iu" or isinstance(values, Sequence):
        # a look at each, before numpy turns True into 1, or 3.0 and its neighbours into floats
        for row, value in enumerate(values.tolist() if isinstance(values, np.ndarray) else list(values)):  # type: ignore[arg-type]
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise TypeError(message(f"{name}[{row}]", "a whole number", value))
    classes = np.array(values)
    outside = np.flatnonzero((classes < 0) | (classes >= count))
    if outside.size:
        row = int(outside[0])
        raise ValueError(message(f"{name}[{row}]", f"{what} from 0 to {count - 1}", int(classes[row])))
    classes = classes.astype(np.int64)
    classes.setflags(write=False)
    return classes
