"""Prometheus's text format 0.0.4, written from plain lists."""

__all__ = ["CONTENT_TYPE", "render"]

import math
from collections.abc import Iterable, Iterator
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})
_LABEL = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def render(families: Iterable[list[Any]]) -> str:
    """The exposition of `families`: [name, type, help, samples], a sample [labels, value] or [labels, value, suffix].

    The suffix (`_bucket`, `_sum`, `_count`) goes behind the name: histograms need it. A value of None is left out.
    """
    return "".join(f"{line}\n" for family in families for line in _family(*family))


def _family(name: str, kind: str, text: str, samples: Iterable[list[Any]]) -> Iterator[str]:
    yield f"# HELP {name} {text.translate(_HELP)}"
    yield f"# TYPE {name} {kind}"
    for labels, value, *suffix in samples:
        if value is not None:
            yield f"{name}{''.join(suffix)}{_labels(labels)} {_number(value)}"


def _labels(labels: dict[str, Any]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{str(value).translate(_LABEL)}"' for name, value in labels.items()) + "}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(int(value)) if value == int(value) and abs(value) < 1 << 53 else repr(float(value))
