"""Policy documents: from their text to values that can be evaluated. Pure.

    document    Version (2012-10-17, or 2008-10-17 which is meant where none stands), Id, Statement
    statement   Sid, Effect (Allow, Deny), Principal or NotPrincipal, Action or NotAction,
                Resource or NotResource, Condition

A key policy names principals in every statement, an identity policy in none. Everything that is
not understood makes the document malformed: an unknown member, effect, version or condition
operator, a member that stands twice. So what is stored means the same to whoever reads it. The one
leniency is that of the AWS KMS: a statement of a key policy that lacks Action or Resource is
accepted, and has no effect.

Texts that were asked for lately are remembered with what they say: many short ones and a few long
ones, because a parsed document takes up to 160 times the room of its text, and who may propose
policies may propose any number of them.
"""

import json
import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, Final

from volcrypt.errors import InvalidArnError, MalformedPolicyError
from volcrypt.kms.conditions import Condition, parse_condition
from volcrypt.kms.patterns import ArnPattern, Facts, Pattern

_CURRENT: Final = "2012-10-17"
_OLD: Final = "2008-10-17"
_DOCUMENT_MEMBERS: Final = frozenset({"Version", "Id", "Statement"})
_STATEMENT_MEMBERS: Final = frozenset(
    {
        *("Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction"),
        *("Resource", "NotResource", "Condition"),
    }
)
_ACTION: Final = re.compile(r"[A-Za-z0-9.*?-]+:[A-Za-z0-9*?]+")
_ACCOUNT: Final = re.compile(r"\d{12}", re.ASCII)
_HALF_A_PAIR: Final = re.compile(r"\\u[dD][89a-fA-F]")
_PRINCIPAL_ARN: Final = re.compile(
    r"arn:aws:iam::(?P<iam>\d{12}):(root|(user|role)/[\w+=,.@/-]+)"
    r"|arn:aws:sts::(?P<sts>\d{12}):(assumed-role|federated-user)/[\w+=,.@:/-]+",
    re.ASCII,
)
_SERVICE: Final = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")
SHORT_CHARACTERS: Final = 2048
_ANYONE: Final = "*"


class PolicyKind(Enum):
    KEY = "key policy"
    IDENTITY = "identity policy"


class Effect(Enum):
    ALLOW = "Allow"
    DENY = "Deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principals:
    """Whom a statement names. Service and federated principals are read, and are never a caller
    here. `arns` are users, roles and sessions; an account's root is in `accounts`."""

    anyone: bool
    accounts: frozenset[str]
    arns: frozenset[str]


@dataclass(frozen=True, slots=True)
class Patterns:
    """Of actions or resources; `inverted` is NotAction and NotResource."""

    patterns: tuple[Pattern | ArnPattern, ...]
    inverted: bool

    def match(self, text: str, facts: Facts) -> bool:
        return any(pattern.matches(text, facts) for pattern in self.patterns) != self.inverted


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """`principals` is None in an identity policy; None for actions or resources: no effect.
    `excludes_principals` is NotPrincipal."""

    effect: Effect
    principals: Principals | None
    excludes_principals: bool
    actions: Patterns | None
    resources: Patterns | None
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    statements: tuple[Statement, ...]

    @property
    def principal_arns(self) -> frozenset[str]:
        """All users, roles and sessions that are named."""
        named = (s.principals.arns for s in self.statements if s.principals is not None)
        return frozenset().union(*named)


def principal_account(arn: str) -> str | None:
    """The account of a principal's ARN; None for what is no ARN of a principal."""
    found = _PRINCIPAL_ARN.fullmatch(arn)
    return None if found is None else found["iam"] or found["sts"]


def parse_policy(text: str, kind: PolicyKind) -> PolicyDocument:
    """What a policy says. Raises MalformedPolicyError, and InvalidArnError for a principal that can
    be none."""
    return (_short_ones if len(text) <= SHORT_CHARACTERS else _long_ones)(text, kind)


def read_policy(text: str, kind: PolicyKind) -> PolicyDocument:
    """The same, read anew."""
    document = _members(_parse_json(text), _DOCUMENT_MEMBERS, "the policy")
    version = document.get("Version", _OLD)
    if version not in (_CURRENT, _OLD):
        raise MalformedPolicyError(f"Version must be {_CURRENT} or {_OLD}")
    if not isinstance(document.get("Id", ""), str):
        raise MalformedPolicyError("Id must be a text")
    statements = document.get("Statement")
    statements = [statements] if isinstance(statements, dict) else statements
    if not isinstance(statements, list) or not statements:
        raise MalformedPolicyError("the policy has no statement")
    if kind is PolicyKind.IDENTITY:
        _check_sids(statements)
    variables = version == _CURRENT
    return PolicyDocument(tuple(_statement(s, kind, variables=variables) for s in statements))


_short_ones: Final = lru_cache(maxsize=128)(read_policy)
_long_ones: Final = lru_cache(maxsize=8)(read_policy)


def forget_policies() -> None:
    """Read every text anew."""
    _short_ones.cache_clear()
    _long_ones.cache_clear()


def _parse_json(text: str) -> Any:
    try:
        document = json.loads(text, object_pairs_hook=_unique)
        # Half a surrogate pair is no text: no answer that names it could be sent.
        text.encode()
        if _HALF_A_PAIR.search(text):
            json.dumps(document, ensure_ascii=False).encode()
        return document
    except (ValueError, RecursionError) as error:
        raise MalformedPolicyError("This policy contains invalid Json") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands twice in one object")
    return members


def _members(value: Any, known: frozenset[str], what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedPolicyError(f"{what} is not a JSON object")
    unknown = value.keys() - known
    if unknown:
        raise MalformedPolicyError(f"{what} has the unknown member {min(unknown)}")
    return value


def _statement(value: Any, kind: PolicyKind, *, variables: bool) -> Statement:
    members = _members(value, _STATEMENT_MEMBERS, "a statement")
    for name in ("Principal", "Action", "Resource"):
        if name in members and f"Not{name}" in members:
            raise MalformedPolicyError(f"a statement has both {name} and Not{name}")
    if members.get("Effect") not in ("Allow", "Deny"):
        raise MalformedPolicyError("the Effect of a statement must be Allow or Deny")
    if not isinstance(members.get("Sid", ""), str):
        raise MalformedPolicyError("Sid must be a text")
    actions = _patterns(members, "Action", _action)
    resources = _patterns(members, "Resource", lambda text: _resource(text, variables=variables))
    if kind is PolicyKind.IDENTITY:
        _check_complete(actions, resources)
    return Statement(
        effect=Effect(members["Effect"]),
        principals=_named_principals(members, kind),
        excludes_principals="NotPrincipal" in members,
        actions=actions,
        resources=resources,
        conditions=_conditions(members.get("Condition", {}), variables=variables),
    )


def _check_complete(actions: Patterns | None, resources: Patterns | None) -> None:
    if actions is None:
        raise MalformedPolicyError("Policy statement must contain actions.")
    if resources is None:
        raise MalformedPolicyError("Policy statement must contain resources.")


def _check_sids(statements: list[Any]) -> None:
    sids = [s["Sid"] for s in statements if isinstance(s, dict) and isinstance(s.get("Sid"), str)]
    if len(set(sids)) != len(sids):
        raise MalformedPolicyError("Statement IDs (SID) in a single policy must be unique.")


def _texts(value: Any, what: str) -> list[str]:
    """A text, or a list of texts."""
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise MalformedPolicyError(f"{what} must be a text or a list of texts")
    return texts


def _patterns(members: dict[str, Any], name: str, parse: Any) -> Patterns | None:
    inverted = f"Not{name}" in members
    texts = _texts(members.get(f"Not{name}" if inverted else name, []), name)
    return Patterns(tuple(map(parse, texts)), inverted) if texts else None


def _action(text: str) -> Pattern:
    if text != "*" and _ACTION.fullmatch(text) is None:
        raise MalformedPolicyError(
            "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc."
        )
    return Pattern.parse(text, variables=False, ignore_case=True)


def _resource(text: str, *, variables: bool) -> Pattern | ArnPattern:
    if text == "*":
        return Pattern.parse(text, variables=False)
    pattern = ArnPattern.parse(text, variables=variables)
    if pattern is None:
        raise MalformedPolicyError(f'Resource {text} must be in ARN format or "*".')
    return pattern


def _conditions(value: Any, *, variables: bool) -> tuple[Condition, ...]:
    if not isinstance(value, dict) or not all(isinstance(keys, dict) for keys in value.values()):
        raise MalformedPolicyError("a Condition must be objects of operators, of condition keys")
    return tuple(
        parse_condition(operator, key, values, variables=variables)
        for operator, keys in value.items()
        for key, values in keys.items()
    )


# ---------------------------------------------------------------- principals


def _named_principals(members: dict[str, Any], kind: PolicyKind) -> Principals | None:
    name = "NotPrincipal" if "NotPrincipal" in members else "Principal"
    if kind is PolicyKind.IDENTITY:
        if name in members:
            raise MalformedPolicyError("Policy document should not specify a principal.")
        return None
    value = members.get(name)
    by_type = {"AWS": _ANYONE} if value == _ANYONE else value
    if not by_type:
        raise MalformedPolicyError("Policy contains a statement with no principal.")
    if not isinstance(by_type, dict):
        raise _invalid_principals()
    accounts: set[str] = set()
    arns: set[str] = set()
    anyone = False
    count = 0
    for type_, entries in by_type.items():
        for entry in _texts(entries, name):
            count += 1
            if type_ == "AWS" and entry == _ANYONE:
                anyone = True
            elif type_ == "AWS":
                account = _account(entry)
                (arns if account is None else accounts).add(account or entry)
            else:
                _check_other_principal(type_, entry)
    if count == 0:
        raise MalformedPolicyError("Policy contains a statement with no principal.")
    return Principals(anyone=anyone, accounts=frozenset(accounts), arns=frozenset(arns))


def _account(entry: str) -> str | None:
    """The account that an entry stands for, by number or as its root; None for other principals.
    Raises InvalidArnError for an ARN of no principal, MalformedPolicyError for other texts."""
    if _ACCOUNT.fullmatch(entry):
        return entry
    if not entry.startswith("arn:"):
        raise _invalid_principals()
    account = principal_account(entry)
    if account is None:
        raise InvalidArnError("An ARN in the specified key policy is invalid.")
    return account if entry.endswith(":root") else None


def _check_other_principal(type_: str, entry: str) -> None:
    is_service = type_ == "Service" and _SERVICE.fullmatch(entry) is not None
    if not (is_service or (type_ == "Federated" and entry not in ("", _ANYONE))):
        raise _invalid_principals()


def _invalid_principals() -> MalformedPolicyError:
    return MalformedPolicyError("Policy contains a statement with one or more invalid principals.")
