"""Change single weights for the length of a `with`; checked, and undone bit for bit.

>>> edit = Edit.parse("model.layers.11.mlp.down_proj.weight[507, 1229]=0")
>>> edit.factor
0.0
>>> str(Edit(edit.address, value=1.5))
'model.layers.11.mlp.down_proj.weight[507, 1229]:=1.5'

A factor multiplies the weight that is there (0 ablates, 1 restores, -1 flips the sign); a value replaces it.
"""

from superweights.editing.apply import Change, edited, weight_value
from superweights.editing.kinds import Edit, assign, double, flip_sign, halve, randomise, scale, spread, zero

__all__ = [
    "Change",
    "Edit",
    "assign",
    "double",
    "edited",
    "flip_sign",
    "halve",
    "randomise",
    "scale",
    "spread",
    "weight_value",
    "zero",
]
