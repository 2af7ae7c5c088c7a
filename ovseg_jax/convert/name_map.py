"""Name maps: tables of rules that carry tensors between a source's names and our paths.

A rule pairs a name pattern of the source with one or several path patterns of ours and a transform
of the array. ``{i}`` in a pattern stands for a number and must appear on both sides. The same table
is read in both directions: checkpoints in, and gradients or weights back out.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from ovseg_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Transform:
    """What happens to an array on the way in, and its inverse.

    Attributes:
      inward: source array -> one array per target path.
      outward: the arrays of all target paths -> source array.
    """

    inward: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    outward: Callable[[tuple[np.ndarray, ...]], np.ndarray]


COPY = Transform(lambda a: (a,), lambda parts: parts[0])
TRANSPOSE = Transform(lambda a: (a.T,), lambda parts: parts[0].T)
CONV = Transform(  # [out, in, h, w] <-> [h, w, in, out]
    lambda a: (a.transpose(2, 3, 1, 0),), lambda parts: parts[0].transpose(3, 2, 0, 1)
)
SQUEEZE = Transform(  # [1, ...] <-> [...]
    lambda a: (a[0],), lambda parts: parts[0][None]
)
SPLIT_ROWS = Transform(  # fused [3d] <-> three [d]
    lambda a: tuple(np.split(a, 3)), lambda parts: np.concatenate(parts)
)
SPLIT_ROWS_TRANSPOSE = Transform(  # fused [3d, in] <-> three [in, d]
    lambda a: tuple(part.T for part in np.split(a, 3)),
    lambda parts: np.concatenate([part.T for part in parts]),
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row of a name map."""

    source: str
    targets: tuple[str, ...]
    transform: Transform = COPY


def rule(source: str, targets: str | Iterable[str], transform: Transform = COPY) -> Rule:
    """A row of a table; a single target may be given as a plain string."""
    return Rule(source, (targets,) if isinstance(targets, str) else tuple(targets), transform)


@functools.cache
def _compile(pattern: str) -> re.Pattern:
    parts = re.split(r"\{(\w+)\}", pattern)  # literal, field, literal, field, …
    regex = "".join(
        rf"(?P<{part}>\d+)" if i % 2 else re.escape(part) for i, part in enumerate(parts)
    )
    return re.compile(regex)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(_compile(pattern).fullmatch(name) for pattern in patterns)


@dataclasses.dataclass(frozen=True)
class NameMap:
    """A table of rules, and the source tensors that are dropped on purpose.

    Attributes:
      source: what the names belong to, for messages.
      rules: the rows; the first that matches a name wins.
      dropped: patterns of source tensors that have no counterpart here.
      absent: patterns of our parameters that have no counterpart there, and that nothing reads.
    """

    source: str
    rules: tuple[Rule, ...]
    dropped: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    def paths(self, name: str) -> tuple[str, ...] | None:
        """Our paths of a source name, () for a dropped one, None for an unknown one."""
        found = self._find(name)
        if found is not None:
            matched, fields = found
            return tuple(target.format(**fields) for target in matched.targets)
        return () if _matches(name, self.dropped) else None

    def inward(
        self,
        tensors: Mapping[str, np.ndarray],
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> dict[str, np.ndarray]:
        """Source tensors -> ``{path: array}``, with every tensor accounted for.

        Args:
          tensors: by source name.
          shapes: what the model expects, ``{path: shape}``; None = whatever comes.

        Raises:
          UserError: unknown tensors, parameters left unfilled or wrong shapes, all of them listed.
        """
        params: dict[str, np.ndarray] = {}
        unknown = []
        for name, array in tensors.items():
            paths = self.paths(name)
            if paths is None:
                unknown.append(name)
            elif paths:
                params.update(zip(paths, self._find(name)[0].transform.inward(array), strict=True))
        problems = [("tensors of the source have no rule", unknown)]
        if shapes is not None:
            unfilled = [
                p for p in sorted(set(shapes) - set(params)) if not _matches(p, self.absent)
            ]
            problems += [
                ("parameters are not in the source", unfilled),
                ("tensors have no place in the model", sorted(set(params) - set(shapes))),
                (
                    "shapes differ",
                    [
                        f"{path} {tuple(params[path].shape)} instead of {tuple(shape)}"
                        for path, shape in sorted(shapes.items())
                        if path in params and tuple(params[path].shape) != tuple(shape)
                    ],
                ),
            ]
        if text := "; ".join(f"{len(n)} {what}: {', '.join(n)}" for what, n in problems if n):
            raise UserError(
                f"the {self.source} checkpoint does not fit ({text}); "
                "check that it belongs to this system and size."
            )
        return params

    def outward(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """``{path: array}`` -> tensors in the source's names, the inverse of `inward`.

        Raises:
          UserError: a path without a rule, or part of a fused tensor missing.
        """
        tensors: dict[str, np.ndarray] = {}
        unknown = []
        for path in params:
            if _matches(path, self.absent):
                continue
            found = self._find_target(path)
            if found is None:
                unknown.append(path)
                continue
            matched, fields = found
            name = matched.source.format(**fields)
            if name in tensors:
                continue
            parts = [target.format(**fields) for target in matched.targets]
            if missing := [part for part in parts if part not in params]:
                unknown += missing
                continue
            tensors[name] = matched.transform.outward(tuple(np.asarray(params[p]) for p in parts))
        if unknown:
            raise UserError(
                f"these parameters cannot be written in the names of {self.source}: "
                f"{', '.join(sorted(set(unknown)))}; convert a model of the matching system."
            )
        return tensors

    def _find(self, name: str) -> tuple[Rule, dict[str, str]] | None:
        for row in self.rules:
            if match := _compile(row.source).fullmatch(name):
                return row, match.groupdict()
        return None

    def _find_target(self, path: str) -> tuple[Rule, dict[str, str]] | None:
        for row in self.rules:
            for target in row.targets:
                if match := _compile(target).fullmatch(path):
                    return row, match.groupdict()
        return None


def prefixed(rules: Iterable[Rule], source: str = "", target: str = "") -> tuple[Rule, ...]:
    """The same rows with prefixes before the source names and before our paths."""
    return tuple(
        Rule(source + row.source, tuple(target + t for t in row.targets), row.transform)
        for row in rules
    )


def affine(source: str, target: str) -> tuple[Rule, ...]:
    """Rows of a norm: weight and bias -> scale and bias."""
    return rule(f"{source}.weight", f"{target}/scale"), rule(f"{source}.bias", f"{target}/bias")


def linear(source: str, target: str) -> tuple[Rule, ...]:
    """Rows of a Linear: weight [out, in] and bias -> kernel [in, out] and bias."""
    return (
        rule(f"{source}.weight", f"{target}/kernel", TRANSPOSE),
        rule(f"{source}.bias", f"{target}/bias"),
    )


def fused_attention(source: str, target: str) -> tuple[Rule, ...]:
    """Rows of PyTorch's MultiheadAttention: fused in_proj (rows q, k, v) and out_proj."""
    parts = ("query", "key", "value")
    return (
        rule(
            f"{source}.in_proj_weight",
            [f"{target}/{part}/kernel" for part in parts],
            SPLIT_ROWS_TRANSPOSE,
        ),
        rule(f"{source}.in_proj_bias", [f"{target}/{part}/bias" for part in parts], SPLIT_ROWS),
        *linear(f"{source}.out_proj", f"{target}/out"),
    )
