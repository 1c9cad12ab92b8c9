"""Text that every store takes."""


def plain_text(text: str) -> str:
    """`text` with escapes for what UTF-8 and a PostgreSQL column do not take.

    Half a surrogate comes from any file name that is not UTF-8; a NUL ends the text for PostgreSQL.
    """
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
