"""What checks annotated types while the tests run."""

from __future__ import annotations

import beartype

# An int is a good float, as for mypy.
check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
