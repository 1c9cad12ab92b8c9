"""Refusals of a store, told apart from trouble that passes.

MLflow answers BAD_REQUEST to any error of its database but an `OperationalError`: to a value that a column does not
take, and just as well to an exhausted pool of connections or a server that is read-only while it fails over. Only the
text, which a tracking server passes on, says which.
"""

import re

_REFUSED = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}
# What no repetition changes, by MLflow's error codes; an unreachable server comes as INTERNAL_ERROR.
_FINAL = _REFUSED | {"INVALID_STATE", "PERMISSION_DENIED", "RESOURCE_ALREADY_EXISTS", "UNAUTHENTICATED"}
# The driver's exception as SQLAlchemy writes it, `(psycopg2.errors.NumericValueOutOfRange) integer out of range`.
_RAISED = re.compile(r"(?:BAD_REQUEST: )?(?:\(raised as a result of [^)]*\)\s*)?\((?:\w+\.)+(\w+)\)")
_OF_VALUES = {
    *("DataError", "IntegrityError"),  # of every driver
    *("OverflowError", "TypeError", "UnicodeEncodeError", "ValueError"),  # Python's own, before the database is asked
    # psycopg's names for PostgreSQL's classes 22 and 23
    *("CharacterNotInRepertoire", "DataException", "DatetimeFieldOverflow", "InvalidTextRepresentation"),
    *("NullValueNotAllowed", "NumericValueOutOfRange", "StringDataRightTruncation", "UntranslatableCharacter"),
    *("CheckViolation", "ExclusionViolation", "ForeignKeyViolation", "IntegrityConstraintViolation"),
    *("NotNullViolation", "RestrictViolation", "UniqueViolation"),
}


def is_refusal(error: Exception) -> bool:
    """Whether the store refuses a value for good, or could not even be asked with it."""
    return isinstance(error, UnicodeError | OverflowError) or _code(error) in _REFUSED or _is_bad_request(error)


def is_final(error: Exception) -> bool:
    """Whether the same call will be refused each time: for its values, or for the rights of who calls."""
    return _code(error) in _FINAL or _is_bad_request(error)


def is_missing(error: Exception) -> bool:
    """Whether the store, asked for a run, says that it has none with this identifier, or could never have."""
    return _code(error) in _REFUSED


def is_foreign(error: Exception) -> bool:
    """Whether a proxy has answered with JSON of its own, of which MLflow hides the status: 413 for all we know."""
    answer = getattr(error, "json", None)
    return isinstance(answer, dict) and "error_code" not in answer


def lacks_credentials(error: BaseException) -> bool:
    """Whether a server does not know who calls, or does not let them."""
    return _code(error) in {"CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED", "UNAUTHENTICATED"}


def _is_bad_request(error: Exception) -> bool:
    if _code(error) != "BAD_REQUEST":
        return False
    if isinstance(getattr(error, "json", None), dict) or error.__cause__ is not None:  # a server's or a database's
        found = _RAISED.match(str(error))
        return found is not None and found[1] in _OF_VALUES
    return True  # a proxy does not take such a request


def _code(error: BaseException) -> str | None:
    return getattr(error, "error_code", None)
