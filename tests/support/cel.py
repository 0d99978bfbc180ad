"""Rules of custom resource definitions (CEL): whether they hold, and what Kubernetes expects them to cost.

An API server refuses a definition with a rule that might be too expensive, judging by the limits in the schema. The
costs here are at least Kubernetes': it takes objects for small, here an object is as large as all that it may hold.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import celpy
from celpy.adapter import json_to_cel
from lark import Token, Tree

MAX_COST, MAX_TOTAL = 10_000_000, 100_000_000  # of a rule and of a definition, in Kubernetes' units
BYTES_PER_CHARACTER = 4  # at most
COMPARED_BYTES = 10  # per unit of cost
KNOWN = {  # what the estimate covers; a rule that loops or calls a function needs more
    *("expr", "exprlist", "paren_expr", "primary", "literal", "ident", "ident_arg", "member", "member_dot"),
    *("conditionalor", "conditionaland", "relation", "relation_eq", "relation_ne"),
    *("addition", "multiplication", "unary", "unary_not"),
}
Schema = Mapping[str, Any]


class Unbounded(Exception):
    """A rule reads a field whose size has no limit."""


def holds(rule: str, new: Mapping[str, Any], old: Mapping[str, Any] | None = None) -> bool:
    """Whether a spec keeps the rule; celpy.CELEvalError if the rule reads what is not there."""
    environment = _environment()
    values = {"self": json_to_cel(dict(new)), "oldSelf": json_to_cel(dict(old or {}))}
    return bool(environment.program(environment.compile(rule)).evaluate(values))


def costs(schema: Schema, times: int = 1) -> Iterator[tuple[str, int]]:
    """Each rule at or below a schema, and its cost: it is evaluated so many times at most. Unbounded."""
    for one in schema.get("x-kubernetes-validations", ()):
        yield one["rule"], times * _cost(_environment().compile(one["rule"]), schema)
    for one in schema.get("properties", {}).values():
        yield from costs(one, times)
    if "items" in schema:
        yield from costs(schema["items"], times * schema.get("maxItems", MAX_COST))
    if "additionalProperties" in schema:
        yield from costs(schema["additionalProperties"], times * schema.get("maxProperties", MAX_COST))


def _environment() -> celpy.Environment:
    limit = sys.getrecursionlimit()
    try:
        return celpy.Environment()
    finally:
        sys.setrecursionlimit(limit)  # which celpy raises for the whole process


def _cost(found: Tree[Token], schema: Schema) -> int:
    """Of an expression: 1 for each step, and what comparing values takes."""
    assert found.data in KNOWN, f"the estimate does not cover {found.data}"
    parts = [part for part in found.children if isinstance(part, Tree)]
    cost = int(found.data in ("ident", "ident_arg", "member_dot", "unary_not"))
    if found.data == "member_dot":
        _size(_path(found), schema)
    if found.data == "relation" and len(parts) > 1:
        (left, *_), right = parts[0].children, parts[1]
        sizes = [_size(_path(side), schema) for side in (left, right)]
        return 1 + -(-min(sizes) // COMPARED_BYTES) + sum(_cost(part, schema) for part in parts)
    return cost + sum(_cost(part, schema) for part in parts)


def _path(found: Any) -> tuple[str, ...]:
    """The fields by which an expression reaches a value of `self` or `oldSelf`; none if it computes one."""
    if found.data == "ident":
        return (str(found.children[0]),)
    if found.data == "member_dot":
        return (*_path(found.children[0]), str(found.children[1]))
    children = found.children
    return _path(children[0]) if len(children) == 1 and isinstance(children[0], Tree) else ()


def _size(path: tuple[str, ...], schema: Schema) -> int:
    """Bytes of the value at a path of a rule's schema."""
    for name in path[1:]:
        schema = schema["properties"][name]
    return _bytes(schema, ".".join(path)) if path else 1


def _bytes(schema: Schema, name: str) -> int:
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        raise Unbounded(f"{name} takes unknown fields")
    if schema["type"] == "string" and "enum" in schema:
        return max(map(len, schema["enum"]))
    if schema["type"] == "string":
        return BYTES_PER_CHARACTER * _limit(schema, "maxLength", name)
    if schema["type"] == "array":
        return _limit(schema, "maxItems", name) * _bytes(schema["items"], f"{name}[]")
    if "additionalProperties" in schema:
        return _limit(schema, "maxProperties", name) * _bytes(schema["additionalProperties"], f"{name}[]")
    return 1 + sum(_bytes(one, f"{name}.{key}") for key, one in schema.get("properties", {}).items())


def _limit(schema: Schema, kind: str, name: str) -> int:
    if kind not in schema:
        raise Unbounded(f"{name} has no {kind}")
    return int(schema[kind])
